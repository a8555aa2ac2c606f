import { randomBytes } from 'node:crypto'
import type Hypercore from 'hypercore'
import type { Logger } from 'pino'
import { keyPairFromSeed, SEED_BYTES } from '../../protocol/ed25519.ts'
import { signIndexHead } from '../../protocol/index-head.ts'
import { baseNameOf, type BaseName } from '../../protocol/store-path.ts'
import type { IndexChange, IndexEntry, Members } from '../site.ts'
import { blocksOf, type Positions } from './change-blocks.ts'
import type { KnownHead } from './head-book.ts'
import type { Indexes } from './indexes.ts'
import { BATCH_BYTES, REMOVED_LEAST, REMOVED_SHARE, SMALL_BLOCKS } from './limits.ts'
import type { LogStore } from './log-store.ts'
import { ownFiles } from './own-files.ts'
import { createPositionCache } from './position-cache.ts'
import type { Timings } from './timings.ts'

/** Entries of a full block, by which the blocks that a log needs are counted. */
const USUAL_ENTRIES = 500

/** Entries of a snapshot written and applied together: some 20 blocks, a megabyte. */
const SNAPSHOT_CHUNK = 10_000

const keyText = (core: Hypercore): string => (core.key ?? Buffer.alloc(0)).toString('hex')

/** When a log is written anew; see limits.ts. */
export interface CompactionLimits {
  readonly removedShare: number
  readonly removedLeast: number
  readonly smallBlocks: number
}

export const COMPACTION: CompactionLimits = {
  removedShare: REMOVED_SHARE,
  removedLeast: REMOVED_LEAST,
  smallBlocks: SMALL_BLOCKS,
}

export interface OwnLogOptions {
  readonly members: Members
  readonly indexes: Indexes
  readonly logs: LogStore
  /** Where the two files beside the logs lie. */
  readonly dir: string
  readonly log: Logger
  readonly timings: Timings
  readonly compaction: CompactionLimits
  /** Whether there is anybody who could know more of our log than we do. */
  readonly hasPeers: () => boolean
  /** A new head is in force. */
  readonly publish: (head: KnownHead) => void
}

/** This host's index, written out. */
export interface OwnLog {
  /** Whole once what the catalog has not seen of the log is in it. */
  open(): Promise<void>
  /** Resolves when the change is in the log and in the catalog. Changes are written in the order of the calls. */
  append(change: IndexChange): Promise<void>
  /** What a peer has of our log, by a head that we signed once. */
  witness(head: KnownHead): void
  readonly epoch: number
  /** The logs that must not be swept away before this is open. */
  cores(): readonly string[]
  close(): Promise<void>
}

/**
 * Two histories under one key end a log for good, at every peer. So a process appends only to a log of which it knows the
 * end: it was closed in peace, or a peer says how long it is. Otherwise, and whenever anybody knows more of the log than
 * we do, a new one is begun, under a key and an epoch of its own; the catalog has what must stand in it.
 */
export function createOwnLog(options: OwnLogOptions): OwnLog {
  const { members, indexes, logs, log, compaction } = options
  const me = members.key
  const files = ownFiles(options.dir)
  let core: Hypercore | undefined
  let epoch = 0
  let seenEpoch = 0
  let closed = false
  let renewing = false
  /** In the log that is written to. */
  let positions = { epoch: -1, cache: createPositionCache() }
  let queue: Promise<unknown> = Promise.resolve()
  /** Undefined once the log's end is known. */
  let waiting: { readonly settle: () => void; readonly settled: Promise<void> } | undefined
  let timer: NodeJS.Timeout | undefined

  /** One thing after the other, whatever becomes of the one before. */
  const enqueue = <T>(work: () => Promise<T>): Promise<T> => {
    const result = queue.then(work)
    queue = result.catch(() => {})
    return result
  }

  const publish = (current: Hypercore) => {
    const head = { host: me, epoch, core: keyText(current), length: current.length }
    options.publish({ ...head, bytes: signIndexHead(head, members.keyPair.secretKey) })
  }

  const positionsIn = (inEpoch: number, next: number): Positions => {
    // Also after a new log that failed half-way: its positions say nothing about the old one.
    if (positions.epoch !== inEpoch) positions = { epoch: inEpoch, cache: createPositionCache() }
    const { cache } = positions
    return {
      next,
      of: (names: readonly BaseName[]) =>
        cache.of(names, asked => indexes.positionsOf(me, asked, inEpoch)),
    }
  }

  /** Appends and applies blocks in batches. */
  const write = async (to: Hypercore, inEpoch: number, blocks: Iterable<Buffer>) => {
    let batch: Buffer[] = []
    let bytes = 0
    const flush = async () => {
      if (batch.length === 0) return
      const from = to.length
      await to.append(batch)
      await indexes.apply(me, inEpoch, from, batch)
      batch = []
      bytes = 0
    }
    for (const block of blocks) {
      batch.push(block)
      bytes += block.length
      if (bytes >= BATCH_BYTES) await flush()
    }
    await flush()
  }

  /** Everything that stands, as the blocks of a log that begins, so that references find what came before. */
  const writeSnapshot = async (to: Hypercore, inEpoch: number): Promise<number> => {
    let written = 0
    let chunk: IndexEntry[] = []
    const flush = async () => {
      const positions = positionsIn(inEpoch, written)
      await write(to, inEpoch, blocksOf({ added: chunk, removed: [] }, positions))
      written += chunk.length
      chunk = []
    }
    for await (const entries of indexes.whole(me)) {
      chunk.push(...entries)
      if (chunk.length >= SNAPSHOT_CHUNK) await flush()
    }
    if (chunk.length > 0) await flush()
    return written
  }

  /** Begins a new log with everything that stands. */
  const rotate = async (why: string) => {
    const before = core
    const standing = indexes.position(me, 'in-force')
    const next = Math.max(epoch, seenEpoch, indexes.position(me)?.epoch ?? 0) + 1
    const fresh = logs.store.get({ keyPair: keyPairFromSeed(randomBytes(SEED_BYTES)) })
    await fresh.ready()
    await indexes.begin(me, { epoch: next, core: keyText(fresh), host: undefined })
    positions.epoch = -1
    const paths = standing === undefined ? 0 : await writeSnapshot(fresh, next)
    await indexes.finish(me, next)
    files.setState({ epoch: next, core: keyText(fresh) })
    epoch = next
    use(fresh)
    log.info({ epoch, paths }, `the index log is begun anew: ${why}`)
    publish(fresh)
    if (before !== undefined) await logs.drop(before).catch(() => {})
  }

  const use = (next: Hypercore) => {
    core = next
    settle()
    next.once('conflict', () => {
      if (core === next && !closed) renew('a peer has another history of it')
    })
  }
  /** Begins a new log in its turn; tries again while that fails, as nothing can be appended before. */
  const renew = (why: string) => {
    if (closed || renewing) return
    renewing = true
    enqueue(async () => {
      renewing = false
      if (!closed) await rotate(why)
    }).catch((error: unknown) => {
      log.error({ err: error }, 'the index log cannot be begun anew; trying again')
      timer = setTimeout(renew, options.timings.retryMs, why)
    })
  }
  const settle = () => {
    clearTimeout(timer)
    waiting?.settle()
    waiting = undefined
  }

  /** Brings the catalog to the end of the log; false where the catalog knows more than the log. */
  const replay = async (current: Hypercore): Promise<boolean> => {
    const standing = indexes.position(me, 'in-force')
    const begun = standing?.epoch !== epoch || standing.core !== keyText(current)
    let from = begun ? 0 : standing.blocks
    if (from > current.length) return false
    if (begun) await indexes.begin(me, { epoch, core: keyText(current), host: undefined })
    let batch: Buffer[] = []
    let bytes = 0
    for (let index = from; index < current.length; index++) {
      const block = await current.get(index, { wait: false })
      if (block === null) return false
      batch.push(block)
      bytes += block.length
      if (bytes < BATCH_BYTES && index + 1 < current.length) continue
      await indexes.apply(me, epoch, from, batch)
      from += batch.length
      batch = []
      bytes = 0
    }
    if (begun) await indexes.finish(me, epoch)
    return true
  }

  const open = async () => {
    const state = files.state()
    const mark = files.takeMark()
    if (state === undefined) return rotate('there was none')
    epoch = state.epoch
    const found = await logs.open(state.core)
    core = found
    if (logs.suspect) return rotate('its directory is not the one that was closed')
    if (!found.writable || !(await replay(found))) return rotate('its end is lost')
    use(found)
    if (mark?.core === state.core && mark.length === found.length) return publish(found)
    if (!options.hasPeers()) return rotate('the last stop was unclean and there is no peer to ask')
    let settleWait = () => {}
    const settled = new Promise<void>(resolve => (settleWait = resolve))
    waiting = { settled, settle: settleWait }
    timer = setTimeout(
      () => renew('the last stop was unclean and no peer knows its end'),
      options.timings.witnessMs,
    )
    publish(found)
  }

  const shouldCompact = (): boolean => {
    const entries = indexes.position(me, 'in-force')?.entries ?? 0
    const paths = indexes.list().find(({ key, inForce }) => key === me && inForce)?.paths ?? 0
    const removed = entries - paths
    return (
      (removed >= compaction.removedLeast && removed > entries * compaction.removedShare) ||
      (core?.length ?? 0) - Math.ceil(paths / USUAL_ENTRIES) > compaction.smallBlocks
    )
  }

  /** Writes a change at the end of the log, of which the catalog has everything. */
  const writeChange = async (change: IndexChange) => {
    const current = core
    if (closed || current === undefined || current.closing !== null) return renewFirst(change)
    if (indexes.position(me, 'in-force')?.blocks !== current.length && !(await replay(current))) {
      return renewFirst(change)
    }
    const next = indexes.position(me, 'in-force')?.entries ?? 0
    const touched = [...change.removed, ...change.added.map(({ info }) => info.storePath)]
    try {
      await write(current, epoch, blocksOf(change, positionsIn(epoch, next)))
    } finally {
      positions.cache.forget(touched.map(baseNameOf))
    }
    publish(current)
    if (shouldCompact()) await rotate('too much of it is removed or in small blocks')
  }
  const renewFirst = async (change: IndexChange) => {
    if (closed) throw new Error('the index log is closed')
    await rotate('it cannot be written to any more')
    await writeChange(change)
  }

  return {
    open: () => enqueue(open),
    async append(change) {
      if (change.added.length === 0 && change.removed.length === 0) return
      await waiting?.settled
      await enqueue(() => writeChange(change))
    },
    witness(head) {
      seenEpoch = Math.max(seenEpoch, head.epoch)
      if (core === undefined || closed || head.epoch < epoch) return
      if (head.epoch > epoch || head.core !== keyText(core)) renew('a peer knows a later one')
      else if (head.length > core.length) renew('a peer knows more of it than is here')
      else settle()
    },
    get epoch() {
      return epoch
    },
    cores() {
      const state = files.state()
      return state === undefined ? [] : [state.core]
    },
    async close() {
      if (closed) return
      closed = true
      clearTimeout(timer)
      const certain = waiting === undefined
      settle()
      await queue
      if (core === undefined || core.closing !== null || !certain) return
      if (indexes.position(me, 'in-force')?.blocks !== core.length) return
      files.setMark({ epoch, core: keyText(core), length: core.length })
      await core.close()
    },
  }
}
