import type { Statements } from './statements.ts'
import type { WriterClient } from './writer-client.ts'
import type { DecisionRow, VerificationRow } from './writer.ts'
import { createWriteBehind } from './write-behind.ts'

const DAY_MS = 24 * 60 * 60 * 1000

/** What a decision was about: anything that differs is another decision. */
export interface DecisionKey {
  readonly holderId: string
  readonly hashPart: string
  /** Digest of everything about the holding that the decision rests on. */
  readonly identity: string
  /** Digest of the configuration that decided. */
  readonly epoch: string
}

/** Decisions of trust as text that trust reads itself: one per holder and path. */
export interface Decisions {
  get(key: DecisionKey): string | undefined
  put(key: DecisionKey, value: string): void
}

/** What full reads of NARs found: by holder and identity of the holding. */
export interface Verifications {
  /** `problem` is undefined when the NAR was right; `verifiedAt` in ms since 1970. Undefined when never read. */
  get(
    holderId: string,
    identity: string,
  ): { readonly verifiedAt: number; readonly problem?: string | undefined } | undefined
  put(holderId: string, identity: string, problem?: string): void
}

/** What both need: a reader that never throws, the writer, a clock, and where trouble is told. */
export interface MemoryParts {
  /** Runs a read of the catalog; undefined when it is closed or damaged. */
  read<T>(work: (sql: Statements) => T): T | undefined
  writer(): WriterClient
  now(): number
  /** Told after every batch: what went wrong, or undefined when it was written. */
  onWritten(error: unknown): void
}

type Flushed<T> = T & { flush(): Promise<void> }

// Holder numbers never change within one file, so they are kept with its connection: a holder not known yet is asked again.
const numbers = new WeakMap<Statements, Map<string, number>>()

function numberOf(sql: Statements, holderId: string): number | undefined {
  let known = numbers.get(sql)
  if (known === undefined) numbers.set(sql, (known = new Map()))
  const number =
    known.get(holderId) ?? (sql('holders.numberOf').pluck().get(holderId) as number | undefined)
  if (number !== undefined) known.set(holderId, number)
  return number
}

/** Decisions read from the catalog and written a little later. */
export function createDecisions({ read, writer, now, onWritten }: MemoryParts): Flushed<Decisions> {
  const today = (): number => Math.floor(now() / DAY_MS)
  const behind = createWriteBehind<DecisionRow>(
    rows => writer().ask({ op: 'decisions', rows }),
    onWritten,
  )
  const write = (key: DecisionKey, value: string): void =>
    behind.put(`${key.hashPart} ${key.holderId}`, { ...key, day: today(), value })
  return {
    get(key) {
      const { holderId, hashPart, identity, epoch } = key
      const waiting = behind.peek(`${hashPart} ${holderId}`)
      if (waiting !== undefined) {
        return waiting.identity === identity && waiting.epoch === epoch ? waiting.value : undefined
      }
      const row = read(sql =>
        sql('decisions.get').get(hashPart, numberOf(sql, holderId) ?? null, identity, epoch),
      ) as { value: string; day: number } | undefined
      // Written anew once a day, so that what is in use is not what gets forgotten.
      if (row !== undefined && row.day < today()) write(key, row.value)
      return row?.value
    },
    put: write,
    flush: behind.flush,
  }
}

/** Verifications read from the catalog and written a little later. */
export function createVerifications({
  read,
  writer,
  now,
  onWritten,
}: MemoryParts): Flushed<Verifications> {
  const behind = createWriteBehind<VerificationRow>(
    rows => writer().ask({ op: 'verifications', rows }),
    onWritten,
  )
  const write = (
    holderId: string,
    identity: string,
    verifiedAt: number,
    problem: string | null,
  ): void => {
    const day = Math.floor(now() / DAY_MS)
    behind.put(`${holderId} ${identity}`, { holderId, identity, day, verifiedAt, problem })
  }
  const stored = (holderId: string, identity: string) => {
    const waiting = behind.peek(`${holderId} ${identity}`)
    if (waiting !== undefined) return waiting
    return read(sql => sql('verifications.get').get(identity, numberOf(sql, holderId) ?? null)) as
      Omit<VerificationRow, 'holderId' | 'identity'> | undefined
  }
  return {
    get(holderId, identity) {
      const row = stored(holderId, identity)
      if (row === undefined) return undefined
      const { verifiedAt, problem } = row
      if (row.day < Math.floor(now() / DAY_MS)) write(holderId, identity, verifiedAt, problem)
      return { verifiedAt, problem: problem ?? undefined }
    },
    put: (holderId, identity, problem) => write(holderId, identity, now(), problem ?? null),
    flush: behind.flush,
  }
}
