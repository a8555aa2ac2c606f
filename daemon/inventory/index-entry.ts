import { setImmediate as turn, setTimeout as wait } from 'node:timers/promises'
import { hashPartOf } from '../../protocol/store-path.ts'
import type { StorePath } from '../../protocol/store-path.ts'
import type { Holder, Holding } from '../holders/holder.ts'
import type { HolderList } from '../holders/holder-list.ts'
import type { IndexEntry } from '../site.ts'

/** What may be told of one holding. */
export type Telling =
  | { readonly told: false }
  | {
      readonly told: true
      /** This host's own word stands for it. */
      readonly vouched: boolean
      readonly ca?: string | undefined
      readonly signatures: readonly string[]
    }

/** Says what may be told of a holding; a function where content must be read to know. */
export type Tell = (holder: Holder, holding: Holding) => Telling | (() => Promise<Telling>)

/** What is to stand in the index under a path. `unknown`: a holder cannot be asked, or content is still being read. */
export type Found =
  | { readonly kind: 'entry'; readonly entry: IndexEntry }
  | { readonly kind: 'none' }
  | { readonly kind: 'unknown' }

/** Answers that wait to be asked for: more would be read ahead of what is told, a few KB each. */
const ANSWERS_MAX = 2000

/** How soon it is looked again whether they were asked for, ms; and when nobody will, as everything is compared anyway. */
const ANSWERS_LOOK_MS = 20
const ANSWERS_WAIT_MS = 10_000

/** Paths waiting for their content to be read at most, 100 bytes each; the next whole scan finds the others. */
const LATE_MAX = 200_000

export interface EntryMakerOptions {
  readonly holders: Pick<HolderList, 'current'>
  readonly tell: Tell
  /** Told of a path that was unknown and can be asked for again. */
  readonly onLate: (storePath: StorePath) => void
}

/** Asks the holders of this host what is to be told. */
export interface EntryMaker {
  of(storePath: StorePath): Found
  /** Resolves when no content is being read. */
  idle(): Promise<void>
  close(): void
}

interface Answer {
  readonly holderId: string
  /** Undefined where it has none, or could not be asked. */
  readonly holding?: Holding | undefined
  readonly telling?: Telling | undefined
  readonly failed?: true
}

type Asked = Holding | 'unknown' | undefined

/** The maker over the holders of one host. */
export function createEntryMaker({ holders, tell, onLate }: EntryMakerOptions): EntryMaker {
  const late = new Set<StorePath>()
  /** What reading content found, until it is asked for. */
  const answers = new Map<StorePath, readonly Answer[]>()
  let reading: Promise<void> | undefined
  let closed = false

  /** Waits until answers have been asked for. */
  const room = async (): Promise<void> => {
    const until = performance.now() + ANSWERS_WAIT_MS
    while (answers.size >= ANSWERS_MAX && !closed) {
      if (performance.now() > until) answers.clear()
      else await wait(ANSWERS_LOOK_MS, undefined, { ref: false })
    }
  }

  /** One at a time: what clients want is read by the same worker threads. */
  const read = async (): Promise<void> => {
    for (const storePath of late) {
      const found: Answer[] = []
      for (const holder of holders.current()) {
        try {
          const holding = await holder.find(hashPartOf(storePath))
          const told = holding === undefined ? undefined : tell(holder, holding)
          const telling = typeof told === 'function' ? await told() : told
          found.push({ holderId: holder.id, holding, telling })
        } catch {
          // Gone or out of reach meanwhile: asking again says so.
          found.push({ holderId: holder.id, failed: true })
        }
        if (closed) return
      }
      late.delete(storePath)
      await room()
      answers.set(storePath, found)
      onLate(storePath)
      await turn()
    }
  }
  const readLater = (storePath: StorePath): void => {
    if (closed || late.size >= LATE_MAX) return
    late.add(storePath)
    reading ??= read().finally(() => {
      reading = undefined
    })
  }

  /** The telling of one holder's holding; undefined while it is not known. */
  const tellingOf = (
    holder: Holder,
    holding: Holding,
    known: readonly Answer[],
  ): Telling | undefined => {
    const answer = known.find(
      one => one.holderId === holder.id && one.holding?.identity === holding.identity,
    )
    if (answer?.telling !== undefined) return answer.telling
    const told = tell(holder, holding)
    return typeof told === 'function' ? undefined : told
  }

  /** What a holder has; of one that takes its time (a drive), what it answered when it was waited for. */
  const ask = (holder: Holder, storePath: StorePath, known: readonly Answer[]): Asked => {
    const part = hashPartOf(storePath)
    if (holder.mayHave === undefined) {
      const holding = holder.find(part)
      return holding instanceof Promise ? 'unknown' : holding
    }
    if (!holder.mayHave(part)) return undefined
    const recalled = holder.recall?.(part)
    if (recalled !== undefined) return recalled
    const waited = known.find(({ holderId }) => holderId === holder.id)
    if (waited?.failed) return 'unknown'
    if (waited !== undefined && waited.holding === undefined) return undefined
    if (waited?.holding !== undefined && holder.isCurrent(waited.holding)) return waited.holding
    readLater(storePath)
    return 'unknown'
  }

  return {
    of(storePath) {
      const known = answers.get(storePath) ?? []
      answers.delete(storePath)
      let entry: IndexEntry | undefined
      let unknown = false
      for (const holder of holders.current()) {
        try {
          const holding = ask(holder, storePath, known)
          if (holding === undefined) continue
          if (holding === 'unknown') {
            unknown = true
            continue
          }
          if (holding.info.storePath !== storePath) continue
          const telling = tellingOf(holder, holding, known)
          if (telling === undefined) {
            unknown = true
            readLater(storePath)
          } else if (telling.told) {
            entry = merged(entry, holding, telling)
          }
        } catch {
          unknown = true
        }
      }
      if (entry !== undefined) return { kind: 'entry', entry }
      return { kind: unknown ? 'unknown' : 'none' }
    },
    async idle() {
      await reading
    },
    close() {
      closed = true
      late.clear()
    },
  }
}

/** What one more holder of the same bytes adds: signatures, its word. */
function merged(
  entry: IndexEntry | undefined,
  { info }: Holding,
  { vouched, ca, signatures }: Extract<Telling, { told: true }>,
): IndexEntry {
  if (entry === undefined) return { info: { ...info, ca, signatures }, builtHere: vouched }
  if (Buffer.compare(entry.info.narHash.bytes, info.narHash.bytes) !== 0) return entry
  return {
    info: {
      ...entry.info,
      ca: entry.info.ca ?? ca,
      signatures: [...new Set([...entry.info.signatures, ...signatures])],
    },
    builtHere: entry.builtHere || vouched,
  }
}

const sorted = (texts: readonly string[]): string => [...texts].sort().join('\n')

/** Whether two entries of one path tell the same; a deriver is hearsay and not worth a new entry. */
export function sameEntry(a: IndexEntry, b: IndexEntry): boolean {
  return (
    a.builtHere === b.builtHere &&
    a.info.narSize === b.info.narSize &&
    a.info.ca === b.info.ca &&
    Buffer.compare(a.info.narHash.bytes, b.info.narHash.bytes) === 0 &&
    sorted(a.info.signatures) === sorted(b.info.signatures) &&
    sorted(a.info.references) === sorted(b.info.references)
  )
}
