import type { Statements } from './statements.ts'

// Which info stands at which position of a log, a page of positions at a time. References lead anywhere into the past of a
// log, mostly to the same few pages.

/** Positions of a page. */
export const PAGE_ENTRIES = 512

/** Pages kept in memory: 4 KB each; a log of a million paths has 2000. */
const KEPT_PAGES = 2500

/** Logs that a page number leaves room for: page numbers stay below 2^23 (2^32 positions). */
const PAGES_OF_LOG = 2 ** 24

/** Pages of logs in the writer; changes are written by `flush`. */
export interface IndexPages {
  /** The info at a position; 0 where there is none. */
  get(log: number, position: number): number
  set(log: number, position: number, info: number): void
  /** Writes what was set: at the end of the transaction. */
  flush(): void
  /** After a transaction that was taken back, or when pages went by other ways. */
  forget(): void
}

/** The numbers of a page as stored. */
export function readPage(bytes: Buffer): Float64Array {
  // A copy: bytes of a small column need not lie where eight-byte numbers may.
  return new Float64Array(Uint8Array.from(bytes).buffer)
}

/** The pages of a catalog that this connection writes. */
export function createIndexPages(sql: Statements): IndexPages {
  const pages = new Map<number, Float64Array>()
  const changed = new Map<number, Float64Array>()

  const pageOf = (log: number, position: number): Float64Array => {
    const number = Math.floor(position / PAGE_ENTRIES)
    const key = log * PAGES_OF_LOG + number
    const known = pages.get(key) ?? changed.get(key)
    if (known !== undefined) return known
    const bytes = sql('indexes.page').pluck().get(log, number) as Buffer | undefined
    const page = bytes === undefined ? new Float64Array(PAGE_ENTRIES) : readPage(bytes)
    if (pages.size >= KEPT_PAGES) {
      // The oldest quarter goes: in a log that is read in order they are needed least.
      let left = KEPT_PAGES / 4
      for (const old of pages.keys()) {
        pages.delete(old)
        if (--left <= 0) break
      }
    }
    pages.set(key, page)
    return page
  }
  return {
    get: (log, position) => pageOf(log, position)[position % PAGE_ENTRIES] as number,
    set(log, position, info) {
      const page = pageOf(log, position)
      page[position % PAGE_ENTRIES] = info
      changed.set(log * PAGES_OF_LOG + Math.floor(position / PAGE_ENTRIES), page)
    },
    flush() {
      for (const [key, page] of changed) {
        const bytes = Buffer.from(page.buffer, page.byteOffset, page.byteLength)
        sql('indexes.putPage').run(Math.floor(key / PAGES_OF_LOG), key % PAGES_OF_LOG, bytes)
      }
      changed.clear()
    },
    forget() {
      pages.clear()
      changed.clear()
    },
  }
}
