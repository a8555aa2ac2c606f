// SipHash-2-4: a fast keyed hash of 64 bits, for tables and filters where nobody may choose what collides. Not for signing.
// Words of 64 bits are kept as two halves of 32, since BigInt is far slower; everything is in one function, whose local
// variables then stay in registers. Source: Aumasson and Bernstein, "SipHash: a fast short-input PRF" (2012).

/** Bytes of a key. */
export const SIPHASH_KEY_BYTES = 16

/** A hash, its upper and lower 32 bits, unsigned. */
export interface SipHash {
  high: number
  low: number
}

const COMPRESSION_ROUNDS = 2
const FINAL_ROUNDS = 4

/** A hash function of Latin 1 texts for one key of 16 bytes. It fills in the same object each time: read it before the next call. */
export function createSipHash(key: Uint8Array): (text: string) => SipHash {
  const view = new DataView(key.buffer, key.byteOffset, SIPHASH_KEY_BYTES)
  const k0l = view.getInt32(0, true)
  const k0h = view.getInt32(4, true)
  const k1l = view.getInt32(8, true)
  const k1h = view.getInt32(12, true)
  const hash: SipHash = { high: 0, low: 0 }
  return text => {
    let v0h = k0h ^ 0x736f6d65
    let v0l = k0l ^ 0x70736575
    let v1h = k1h ^ 0x646f7261
    let v1l = k1l ^ 0x6e646f6d
    let v2h = k0h ^ 0x6c796765
    let v2l = k0l ^ 0x6e657261
    let v3h = k1h ^ 0x74656462
    let v3l = k1l ^ 0x79746573
    const { length } = text
    // Whole words, then one with what is left and the length, then the end.
    const words = (length >>> 3) + 1
    for (let at = 0; at <= words; at++) {
      let high = 0
      let low = 0
      let rounds = FINAL_ROUNDS
      if (at < words) {
        const end = Math.min(at * 8 + 8, length)
        for (let index = at * 8; index < end; index++) {
          const byte = (text.charCodeAt(index) & 0xff) << ((index & 3) * 8)
          if ((index & 4) === 0) low |= byte
          else high |= byte
        }
        if (at === words - 1) high |= length << 24
        rounds = COMPRESSION_ROUNDS
      } else v2l ^= 0xff
      v3h ^= high
      v3l ^= low
      for (; rounds > 0; rounds--) {
        let sum = (v0l >>> 0) + (v1l >>> 0)
        v0h = (v0h + v1h + (sum > 0xffffffff ? 1 : 0)) | 0
        v0l = sum | 0
        let h = v1h
        v1h = ((h << 13) | (v1l >>> 19)) ^ v0h
        v1l = ((v1l << 13) | (h >>> 19)) ^ v0l
        h = v0h
        v0h = v0l
        v0l = h
        sum = (v2l >>> 0) + (v3l >>> 0)
        v2h = (v2h + v3h + (sum > 0xffffffff ? 1 : 0)) | 0
        v2l = sum | 0
        h = v3h
        v3h = ((h << 16) | (v3l >>> 16)) ^ v2h
        v3l = ((v3l << 16) | (h >>> 16)) ^ v2l
        sum = (v0l >>> 0) + (v3l >>> 0)
        v0h = (v0h + v3h + (sum > 0xffffffff ? 1 : 0)) | 0
        v0l = sum | 0
        h = v3h
        v3h = ((h << 21) | (v3l >>> 11)) ^ v0h
        v3l = ((v3l << 21) | (h >>> 11)) ^ v0l
        sum = (v2l >>> 0) + (v1l >>> 0)
        v2h = (v2h + v1h + (sum > 0xffffffff ? 1 : 0)) | 0
        v2l = sum | 0
        h = v1h
        v1h = ((h << 17) | (v1l >>> 15)) ^ v2h
        v1l = ((v1l << 17) | (h >>> 15)) ^ v2l
        h = v2h
        v2h = v2l
        v2l = h
      }
      v0h ^= high
      v0l ^= low
    }
    hash.high = (v0h ^ v1h ^ v2h ^ v3h) >>> 0
    hash.low = (v0l ^ v1l ^ v2l ^ v3l) >>> 0
    return hash
  }
}
