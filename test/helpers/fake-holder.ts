import { createHash } from 'node:crypto'
import { fail } from '../../protocol/errors.ts'
import type { PathInfo } from '../../protocol/path-info.ts'
import { hashPartOf, parseStorePath, type HashPart } from '../../protocol/store-path.ts'
import type { Holder, Holding } from '../../daemon/holders/holder.ts'
import type { Decision, Trust } from '../../daemon/trust/trust.ts'
import type { ByteStream } from '../../daemon/workers/byte-stream.ts'

/** A path whose "NAR" is any bytes: what substitution moves it does not look into. */
export function fakePath(name: string, nar: Buffer, references: string[] = []): PathInfo {
  const digest = createHash('sha256').update(name).digest('hex')
  const letters = '0123456789abcdfghijklmnpqrsvwxyz'
  const hash = Array.from({ length: 32 }, (_, i) => letters[parseInt(digest[i] ?? '0', 16)]).join(
    '',
  )
  return {
    storePath: parseStorePath(`/nix/store/${hash}-${name}`),
    narHash: { algorithm: 'sha256', bytes: createHash('sha256').update(nar).digest() },
    narSize: nar.length,
    references: references as unknown as PathInfo['references'],
    signatures: [],
  }
}

export interface FakeHolder extends Holder {
  /** What it has: the promise and the bytes, which need not agree. */
  readonly content: Map<HashPart, { info: PathInfo; nar: Buffer; file?: Holding }>
  /** Streams break after this many bytes of the NAR (absolute offset). */
  breakAt: number | undefined
  /** Every verb throws. */
  broken: boolean
  /** Holds back every verification until called. */
  holdVerdicts: boolean
  readonly opened: { offset: number; end: number | undefined }[]
  verifications: number
  releaseVerdicts(): void
  put(info: PathInfo, nar: Buffer): void
}

const CHUNK = 1000

/** A holder in memory with every fault one can have. */
export function fakeHolder(id: string, kind: Holder['kind'] = 'cache-dir'): FakeHolder {
  let generation = 0
  let waiting: (() => void)[] = []
  const check = () => {
    if (holder.broken) fail('HOLDER_UNREADABLE', { holder: id, problem: 'told to fail' })
  }
  const holder: FakeHolder = {
    id,
    kind,
    storeDir: '/nix/store',
    content: new Map(),
    breakAt: undefined,
    broken: false,
    holdVerdicts: false,
    opened: [],
    verifications: 0,
    releaseVerdicts() {
      holder.holdVerdicts = false
      for (const resolve of waiting) resolve()
      waiting = []
    },
    put(info, nar) {
      generation++
      holder.content.set(hashPartOf(info.storePath), { info, nar })
    },
    open: async () => {},
    close: async () => {},
    find(hashPart) {
      check()
      const entry = holder.content.get(hashPart)
      if (entry === undefined) return undefined
      const digest = createHash('sha256').update(entry.nar).digest('hex')
      return { info: entry.info, identity: digest, builtHere: false, compression: 'none' }
    },
    isCurrent(holding) {
      if (holder.broken) return false
      const found = holder.find(hashPartOf(holding.info.storePath)) as Holding | undefined
      return found?.identity === holding.identity
    },
    openNar(holding, range = {}) {
      check()
      const nar = holder.content.get(hashPartOf(holding.info.storePath))?.nar
      if (nar === undefined) fail('HOLDING_GONE', { path: holding.info.storePath, holder: id })
      holder.opened.push({ offset: range.offset ?? 0, end: range.end })
      return stream(nar, range.offset ?? 0, range.end ?? nar.length, () => holder.breakAt)
    },
    async verify(holding) {
      check()
      holder.verifications++
      if (holder.holdVerdicts) await new Promise<void>(resolve => waiting.push(resolve))
      const nar = holder.content.get(hashPartOf(holding.info.storePath))?.nar ?? Buffer.alloc(0)
      const actual = createHash('sha256').update(nar).digest()
      if (actual.equals(holding.info.narHash.bytes)) return {}
      try {
        fail('NAR_MISMATCH', { path: holding.info.storePath, field: 'hash', actual: 'other' })
      } catch (problem) {
        return { problem: problem as Error }
      }
    },
    listing: async () => undefined,
    log: async () => undefined,
    realisation: async () => undefined,
    buildTrace: async () => undefined,
    debugInfo: async () => undefined,
    readFile: async () => undefined,
    async *paths() {
      yield [...holder.content.values()].map(({ info }) => info.storePath)
    },
    generation: () => generation,
  }
  return holder
}

function stream(
  nar: Buffer,
  offset: number,
  end: number,
  breakAt: () => number | undefined,
): ByteStream {
  let stopped = false
  return {
    recycle() {},
    destroy: () => void (stopped = true),
    async *[Symbol.asyncIterator]() {
      for (let at = offset; at < end && !stopped; at += CHUNK) {
        const limit = breakAt()
        const stop = Math.min(at + CHUNK, end, limit ?? Infinity)
        if (stop > at) yield Buffer.from(nar.subarray(at, stop))
        if (limit !== undefined && at + CHUNK > limit) throw new Error('the disk was pulled')
      }
    },
  }
}

/** A trust that offers everything, or what the function says. */
export function fakeTrust(decide: (holding: Holding) => Decision = offerAll): Trust {
  return {
    publicKey: 'test-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=',
    open: async () => {},
    close: async () => {},
    decide: (_holder, holding) => decide(holding),
  }
}

export const offerAll = (): Decision => ({
  offered: true,
  reason: 'signed',
  key: 'test-1',
  public: true,
  signatures: [`test-1:${Buffer.alloc(64).toString('base64')}`],
})
