/** Rows wait at most this long, ms: a burst of first narinfos becomes one transaction. */
const FLUSH_AFTER_MS = 50

/** Rows that are not put off any longer. */
const FLUSH_AT_ROWS = 500

/** Rows waiting at most, when the disk does not keep up: the newest beyond are dropped, they can be worked out again. */
const WAITING_MAX_ROWS = 20_000

/** Rows written a little later, and readable at once. */
export interface WriteBehind<Row> {
  /** The row put last under that key, while it is not yet written. */
  peek(key: string): Row | undefined
  put(key: string, row: Row): void
  /** Resolves when everything put so far is written or given up. */
  flush(): Promise<void>
}

/** Collects rows and hands them to `write` in batches, one at a time; a batch that cannot be written is given up. */
export function createWriteBehind<Row>(
  write: (rows: readonly Row[]) => Promise<unknown>,
  onWritten: (error: unknown) => void,
): WriteBehind<Row> {
  let waiting = new Map<string, Row>()
  let writing = new Map<string, Row>()
  let current: Promise<void> | undefined
  let timer: NodeJS.Timeout | undefined

  const run = async (): Promise<void> => {
    while (waiting.size > 0) {
      writing = waiting
      waiting = new Map()
      try {
        await write([...writing.values()])
        onWritten(undefined)
      } catch (error) {
        onWritten(error)
      }
      writing = new Map()
    }
  }
  const flush = (): Promise<void> => {
    clearTimeout(timer)
    timer = undefined
    current ??= run().finally(() => {
      current = undefined
    })
    return current
  }

  return {
    peek: key => waiting.get(key) ?? writing.get(key),
    put(key, row) {
      if (waiting.size >= WAITING_MAX_ROWS && !waiting.has(key)) return
      waiting.set(key, row)
      if (waiting.size >= FLUSH_AT_ROWS) void flush()
      else if (timer === undefined) {
        timer = setTimeout(() => void flush(), FLUSH_AFTER_MS).unref()
      }
    },
    flush,
  }
}
