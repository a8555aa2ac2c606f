import { randomBytes } from 'node:crypto'
import { renameSync } from 'node:fs'
import { join } from 'node:path'
import type { Problem } from '../../protocol/api.ts'
import { fail, isNarwharfError, problemOf } from '../../protocol/errors.ts'
import { NOTED_WANTS_MAX, type NotedWant } from '../../protocol/host-note-fields.ts'
import { baseNameOf, joinStorePath, storeDirOf } from '../../protocol/store-path.ts'
import { readWants, type Want, type WantKind } from '../../protocol/want-list.ts'
import type { StorePath } from '../../protocol/store-path.ts'
import { readSmallFile, sweepTemporary, writeWhole } from '../secret-file.ts'

/** Bytes of all wants of this host in its note, which must hold other facts beside them: paths of two whole configurations. */
const WANTS_MAX_BYTES = 1024 * 1024

/** Bytes of the file: the wants with whole paths. */
const FILE_MAX_BYTES = 8 * 1024 * 1024

const NAME = 'wants.json'
const MODE = 0o600

/** What is asked for, resolved. */
export interface Wish {
  readonly kind: WantKind
  readonly text: string
  readonly paths: readonly StorePath[]
  readonly priority: number
  readonly by: string
}

/** What was asked for on this host: user data, apart from the catalog, never lost with it. */
export interface WantBook {
  /** Reads the file; one that is damaged is moved aside, and said. */
  open(): void
  list(): readonly Want[]
  /** Adds wishes; one for the same thing takes the place of the one before, and its id. Throws WANTS_FULL. */
  add(wishes: readonly Wish[]): readonly Want[]
  /** Takes out those with that id or text; what it took. */
  remove(idOrText: string): readonly Want[]
  problems(): readonly Problem[]
  onChange(listener: () => void): void
}

/** A want as it stands in this host's note. */
export const notedWant = ({ paths, ...want }: Want): NotedWant => ({
  ...want,
  paths: paths.map(baseNameOf),
})

/** A want of a note with whole paths. */
export const wantOf = ({ paths, ...want }: NotedWant, storeDir: string): Want => ({
  ...want,
  paths: paths.map(path => joinStorePath(storeDir, path)),
})

export function createWantBook(options: {
  readonly stateDir: string
  readonly storeDir: string
  readonly clock?: (() => Date) | undefined
}): WantBook {
  const { stateDir, storeDir, clock = () => new Date() } = options
  const file = join(stateDir, NAME)
  let wants: readonly Want[] = []
  const problems: Problem[] = []
  let changed: () => void = () => {}

  const store = (next: readonly Want[]) => {
    const noted = Buffer.byteLength(JSON.stringify(next.map(notedWant)))
    if (next.length > NOTED_WANTS_MAX || noted > WANTS_MAX_BYTES) {
      fail('WANTS_FULL', { count: next.length, bytes: noted })
    }
    writeWhole(file, `${JSON.stringify({ version: 1, wants: next }, null, 2)}\n`, MODE)
    wants = next
    changed()
  }

  /** Nobody's wishes are thrown away because they cannot be read. */
  const moveAside = (error: unknown) => {
    const aside = `${file}.damaged-${clock().toISOString().replaceAll(/[:.]/g, '-')}`
    renameSync(file, aside)
    const why = isNarwharfError(error) ? error.data['problem'] : problemOf(error)
    problems.push({
      what: `the wants of this host could not be read (${why}); the file was moved to ${aside}`,
      hint: 'mend it and move it back while narwharf is stopped, or say the wants again: narwharf want add',
    })
  }

  return {
    open() {
      sweepTemporary(stateDir, [NAME])
      try {
        const bytes = readSmallFile(file, FILE_MAX_BYTES)
        if (bytes === undefined) return
        const { version, wants: read } = JSON.parse(bytes.toString('utf8')) as {
          readonly version?: unknown
          readonly wants?: unknown
        }
        if (version !== 1) throw new Error(`version ${String(version)} is not known`)
        wants = readWants({ wants: read }, storeDir)
      } catch (error) {
        moveAside(error)
      }
    },
    list: () => wants,
    add(wishes) {
      const since = clock().toISOString()
      const added = new Map<string, Want>()
      for (const wish of wishes) {
        const key = `${wish.kind} ${wish.text}`
        const before = wants.find(({ kind, text }) => `${kind} ${text}` === key)
        const { kind, text, paths, priority, by } = wish
        for (const path of paths) {
          if (storeDirOf(path) !== storeDir) {
            fail('STORE_PATH_INVALID', { value: path, problem: `not below ${storeDir}` })
          }
        }
        const id = added.get(key)?.id ?? before?.id ?? randomBytes(6).toString('hex')
        added.set(key, { id, kind, text, paths, priority, by, since: before?.since ?? since })
      }
      const ids = new Set([...added.values()].map(({ id }) => id))
      store([...wants.filter(({ id }) => !ids.has(id)), ...added.values()])
      return [...added.values()]
    },
    remove(idOrText) {
      const removed = wants.filter(({ id, text }) => id === idOrText || text === idOrText)
      if (removed.length > 0) store(wants.filter(want => !removed.includes(want)))
      return removed
    },
    problems: () => problems,
    onChange: listener => void (changed = listener),
  }
}
