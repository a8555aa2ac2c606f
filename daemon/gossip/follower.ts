import type Hypercore from 'hypercore'
import type { CoreDownload } from 'hypercore'
import type { Logger } from 'pino'
import { INDEX_BLOCK_MAX_BYTES } from '../../protocol/index-block.ts'
import { fail, isNarwharfError } from '../../protocol/errors.ts'
import type { KnownHead } from './head-book.ts'
import type { Indexes } from './indexes.ts'
import { BATCH_BYTES, LOG_LIMIT_BLOCKS, LOG_LIMIT_BYTES, WINDOW_BLOCKS } from './limits.ts'
import type { LogStore } from './log-store.ts'

export interface FollowerOptions {
  readonly logs: LogStore
  readonly indexes: Indexes
  readonly log: Logger
  /** The host's name, for people. */
  readonly name: string
  readonly retryMs: number
  /** Blocks were applied. */
  readonly onApplied: () => void
  /** The log is whole and in force: what was before may go. */
  readonly onWhole: () => void
  /** The log says what no log says: it must not be listened to. */
  readonly onInvalid: (problem: string) => void
  /** Two histories of this log exist: its host will begin another. */
  readonly onForked: () => void
}

/** Takes one log of one host into the catalog, as far as anybody has it, for as long as it grows. */
export interface Follower {
  /** Blocks known to exist less blocks applied. */
  lag(): number
  /** A longer head was seen. */
  saw(head: KnownHead): void
  /** Takes no more in, and still has the log for others. */
  hold(): Promise<void>
  /** `drop`: the log's bytes go too. */
  close(drop: boolean): Promise<void>
}

/** A log too large to be honest is not asked for. */
function checkSize(core: Hypercore): void {
  if (core.length > LOG_LIMIT_BLOCKS) {
    fail('INDEX_INVALID', { problem: `more than ${LOG_LIMIT_BLOCKS} blocks` })
  }
  if (core.byteLength > LOG_LIMIT_BYTES) {
    fail('INDEX_INVALID', { problem: `more than ${LOG_LIMIT_BYTES} bytes` })
  }
}

export function createFollower(first: KnownHead, options: FollowerOptions): Follower {
  const { logs, indexes, log } = options
  const { host, epoch } = first
  let head = first
  let core: Hypercore | undefined
  let applied = 0
  let closed = false
  let wake = () => {}
  let retry: NodeJS.Timeout | undefined
  let downloads: CoreDownload[] = []
  let running: Promise<void> = Promise.resolve()

  /** Resolves when the log grew, or the follower was closed. */
  const growth = () =>
    new Promise<void>(resolve => {
      wake = resolve
      if (closed || (core !== undefined && core.length > applied)) resolve()
    })

  const open = async () => {
    const opened = await logs.open(first.core)
    core = opened
    if (closed) return opened
    opened.on('append', () => wake())
    opened.once('conflict', () => {
      if (!closed) options.onForked()
    })
    // Refused while it comes in: a block is at most 16 MB, and this one is the last.
    opened.on('download', (_index, bytes) => {
      if (bytes > INDEX_BLOCK_MAX_BYTES && !closed) {
        closed = true
        options.onInvalid(`a block of ${bytes} bytes`)
      }
    })
    return opened
  }

  /** The blocks from `applied` up to `end`, which are here. */
  const applyUpTo = async (opened: Hypercore, end: number) => {
    let blocks: Buffer[] = []
    let bytes = 0
    for (let index = applied; index < end && !closed; index++) {
      const block = await opened.get(index, { wait: false })
      if (block === null) break
      if (block.length > INDEX_BLOCK_MAX_BYTES) {
        fail('INDEX_INVALID', { problem: `a block of ${block.length} bytes` })
      }
      blocks.push(block)
      bytes += block.length
      if (bytes < BATCH_BYTES && index + 1 < end) continue
      await indexes.apply(host, epoch, applied, blocks)
      applied += blocks.length
      blocks = []
      bytes = 0
      options.onApplied()
    }
  }

  const follow = async () => {
    const opened = core ?? (await open())
    await indexes.begin(host, { epoch, core: first.core, host: options.name })
    const position = indexes.position(host)
    applied = position?.blocks ?? 0
    let inForce = position?.inForce ?? false
    let whole = false
    while (!closed) {
      checkSize(opened)
      if (!whole && applied >= head.length) {
        if (!inForce) await indexes.finish(host, epoch)
        inForce = true
        whole = true
        options.onApplied()
        options.onWhole()
      }
      if (opened.length <= applied) {
        await growth()
        continue
      }
      const end = Math.min(opened.length, applied + WINDOW_BLOCKS)
      // The next window travels while this one is applied.
      const ahead = Math.min(opened.length, end + WINDOW_BLOCKS)
      downloads = [opened.download({ start: applied, end })]
      if (ahead > end) downloads.push(opened.download({ start: end, end: ahead }))
      if (await downloads[0]?.done()) await applyUpTo(opened, end)
      downloads[1]?.destroy()
    }
  }

  const run = () => {
    running = follow().catch((error: unknown) => {
      if (closed) return
      if (isNarwharfError(error, 'INDEX_INVALID')) {
        closed = true
        return options.onInvalid(error.message)
      }
      log.warn({ err: error, host }, 'an index cannot be taken in; trying again')
      retry = setTimeout(run, options.retryMs)
    })
  }
  run()

  const hold = async () => {
    closed = true
    clearTimeout(retry)
    wake()
    for (const download of downloads) download.destroy()
    await running
  }

  return {
    lag: () => Math.max(0, Math.max(head.length, core?.length ?? 0) - applied),
    saw(longer) {
      head = longer
      wake()
    },
    hold,
    async close(drop) {
      await hold()
      if (core === undefined) return
      if (!drop) return core.close()
      await logs.drop(core).catch((error: unknown) => log.warn({ err: error }, 'a log stays'))
    },
  }
}
