/** A repeatable stream of numbers in [0, 1): mulberry32. */
export function seededRandom(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

/** Damaged copies of real bytes: one to four of changed, dropped, doubled, inserted or cut-off stretches each. */
export function* mutations(original: Uint8Array, count: number, seed: number): Generator<Buffer> {
  const random = seededRandom(seed)
  const below = (limit: number) => Math.floor(random() * limit)
  for (let number = 0; number < count; number++) {
    let bytes = Buffer.from(original)
    for (let change = 0; change <= below(4); change++) {
      const at = below(bytes.length + 1)
      const end = Math.min(bytes.length, at + 1 + below(8))
      const [head, middle, tail] = [
        bytes.subarray(0, at),
        bytes.subarray(at, end),
        bytes.subarray(end),
      ]
      const noise = Buffer.from(Array.from({ length: 1 + below(4) }, () => below(256)))
      const parts = [
        [head, noise, tail],
        [head, tail],
        [head, middle, middle, tail],
        [head, noise, middle, tail],
        [head],
        [
          head,
          Buffer.from(['\n', '"', ':', '\\', '(', ']', ' ', '\0', '{'][below(9)] as string),
          tail,
        ],
      ]
      bytes = Buffer.concat(parts[below(parts.length)] as Buffer[])
    }
    yield bytes
  }
}
