import { randomBytes } from 'node:crypto'
import type { Logger } from 'pino'
import type { Problem } from '../../protocol/api.ts'
import { problemOf } from '../../protocol/errors.ts'
import { writeHostNote, type HostNote } from '../../protocol/host-note-fields.ts'
import { signHostNote } from '../../protocol/host-notes.ts'
import type { Members } from '../site.ts'
import type { KnownNote, Notes } from './note-shelf.ts'

/** What this host says of itself just now. */
export type OwnFacts = Omit<HostNote, 'at' | 'instance'>

/** Waits, in ms. */
export interface OwnNoteTimings {
  /** How long changes are gathered before they are told. */
  readonly gatherMs: number
  /** Two machines with one key would write against each other for ever: each waits twice as long as the time before. */
  readonly renewMs: number
  readonly renewMaxMs: number
  /** Before a note that could not be written is tried again. */
  readonly retryMs: number
}

const TIMINGS: OwnNoteTimings = {
  gatherMs: 50,
  renewMs: 500,
  renewMaxMs: 600_000,
  retryMs: 5_000,
}

/** Overtaken so often in one run, it is no old note that somebody kept. */
const RIVAL_AT = 3

/** Writes this host's note whenever what it says changes. */
export interface OwnNote {
  open(): void
  close(): void
  /** Something that stands in the note may have changed. */
  touch(): void
  problems(): readonly Problem[]
}

export function createOwnNote(options: {
  readonly notes: Notes
  readonly members: Members
  readonly facts: () => OwnFacts
  readonly log: Logger
  readonly clock?: (() => Date) | undefined
  readonly timings?: Partial<OwnNoteTimings> | undefined
}): OwnNote {
  const { notes, members, facts, log, clock = () => new Date() } = options
  const timings = { ...TIMINGS, ...options.timings }
  const instance = randomBytes(8).toString('hex')
  let timer: NodeJS.Timeout | undefined
  let renewing: NodeJS.Timeout | undefined
  let opened = false
  /** The highest number that anybody has of us. */
  let seen = -1
  let overtakings = 0
  let problem: Problem | undefined

  const sameAs = (note: HostNote | undefined, now: OwnFacts): boolean => {
    if (note === undefined) return false
    const { at, instance: theirs } = note
    return writeHostNote({ ...now, at, instance: theirs }).equals(writeHostNote(note))
  }
  const write = (anyway: boolean) => {
    const now = facts()
    const own = notes.of(members.key)
    if (!anyway && sameAs(own?.note, now)) return
    const sequence = Math.max(seen, own?.mark.sequence ?? -1) + 1
    const note = { ...now, at: clock().toISOString(), instance }
    notes.setOwn(signHostNote(note, sequence, members.keyPair.secretKey))
    seen = sequence
  }
  const attempt = (anyway: boolean) => {
    timer = undefined
    try {
      write(anyway)
      problem = undefined
    } catch (error) {
      problem = {
        what: `what this host tells its site of itself is not written: ${problemOf(error)}`,
        hint: 'look for a full or read-only disk; the site goes on with what it was told before',
      }
      log.warn({ err: error }, problem.what)
      timer = setTimeout(attempt, timings.retryMs, anyway)
    }
  }

  const onOvertaken = ({ mark, note }: KnownNote) => {
    seen = Math.max(seen, mark.sequence)
    if (renewing !== undefined || !opened) return
    // The first time it is our own old note, kept by a peer while our state was restored from a copy.
    const delay =
      overtakings === 0 ? 0 : Math.min(timings.renewMaxMs, timings.renewMs * 2 ** overtakings)
    overtakings++
    log.info({ sequence: mark.sequence, instance: note.instance }, 'a peer has a later note of us')
    renewing = setTimeout(() => {
      renewing = undefined
      attempt(true)
    }, delay)
  }

  return {
    open() {
      if (opened) return
      opened = true
      notes.onOvertaken(onOvertaken)
      attempt(false)
    },
    close() {
      opened = false
      clearTimeout(timer)
      clearTimeout(renewing)
    },
    touch() {
      if (opened) timer ??= setTimeout(attempt, timings.gatherMs, false)
    },
    problems: () => [
      ...(problem === undefined ? [] : [problem]),
      ...(overtakings < RIVAL_AT
        ? []
        : [
            {
              what: 'another machine speaks to the site with the key of this host',
              hint: 'one of the two is a copy: stop it, remove its state directory, and let it join as itself',
            },
          ]),
    ],
  }
}
