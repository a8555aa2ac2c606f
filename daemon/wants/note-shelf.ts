import { mkdirSync, readdirSync, rmSync } from 'node:fs'
import { rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Logger } from 'pino'
import type { HostNote } from '../../protocol/host-note-fields.ts'
import { markOf, NOTE_MAX_BYTES, openHostNote, type NoteMark } from '../../protocol/host-notes.ts'
import type { EventBus } from '../events.ts'
import { readSmallFile, writeWhole } from '../secret-file.ts'
import { parsePeerKey, type Members, type NoteShelf, type PeerKey } from '../site.ts'

/** A note that is known. */
export interface KnownNote {
  readonly host: PeerKey
  readonly mark: NoteMark
  readonly note: HostNote
}

/** The newest note of every member, kept over restarts: what a host said is known while it is off. */
export interface Notes extends NoteShelf {
  /** Reads what was kept; a damaged file is a note that will be told again. */
  open(): void
  close(): Promise<void>
  /** Members' notes, this host's own among them. */
  all(): readonly KnownNote[]
  of(host: PeerKey): KnownNote | undefined
  /** Puts this host's own note there, on the disk before anybody hears of it. */
  setOwn(signed: Buffer): void
  /** Told of every note of this host's own key that another had and that would supersede ours. */
  onOvertaken(listener: (known: KnownNote) => void): void
}

interface Kept extends KnownNote {
  readonly bytes: Buffer
}

const FILE = /^([0-9a-f]{64})\.note$/

/** Anybody in the site may read them, nobody else on this machine. */
const NOTE_MODE = 0o600

/** The shelf in `<stateDir>/notes`. */
export function createNotes(options: {
  readonly dir: string
  readonly members: Members
  readonly events: EventBus
  readonly log: Logger
}): Notes {
  const { dir, members, events, log } = options
  const kept = new Map<PeerKey, Kept>()
  let overtaken: (known: KnownNote) => void = () => {}
  /** Writes of others' notes, one after the other: the last one for a host wins. */
  let writing: Promise<unknown> = Promise.resolve()

  const fileOf = (host: PeerKey) => join(dir, `${host}.note`)
  const open = (bytes: Buffer): Kept => {
    const { host, note } = openHostNote(bytes)
    return { host: host as PeerKey, mark: markOf(bytes), note, bytes }
  }
  const newer = (mark: NoteMark, than: NoteMark | undefined) =>
    than === undefined || mark.sequence > than.sequence
  /** Our own key's note that is not ours, with a number that ours does not beat. */
  const beatsOwn = (mark: NoteMark) => {
    const own = kept.get(members.key)?.mark
    return newer(mark, own) || (mark.sequence === own?.sequence && mark.digest !== own.digest)
  }
  const write = (work: () => Promise<unknown>) => {
    writing = writing.then(work).catch((error: unknown) => {
      log.warn({ err: error }, 'the note of a host is not written; it will be told again')
    })
  }
  const save = ({ host, bytes }: Kept) =>
    write(async () => {
      const file = fileOf(host)
      await writeFile(`${file}.new`, bytes, { mode: NOTE_MODE })
      await rename(`${file}.new`, file)
    })

  const load = () => {
    mkdirSync(dir, { recursive: true, mode: 0o700 })
    for (const name of readdirSync(dir)) {
      const key = parsePeerKey(FILE.exec(name)?.[1] ?? '')
      try {
        if (key === undefined) throw new Error('no note')
        const bytes = readSmallFile(join(dir, name), NOTE_MAX_BYTES)
        if (bytes !== undefined) kept.set(key, open(bytes))
      } catch {
        // Cut short, or left over from a kill: the peers have it, or the host writes another.
        rmSync(join(dir, name), { force: true })
      }
    }
  }
  const onMembers = () => {
    // A host without a site is no member even of its own list; its note waits until it has one.
    for (const host of kept.keys()) {
      if (host === members.key || members.isMember(host)) continue
      kept.delete(host)
      write(() => rm(fileOf(host), { force: true }))
      events.emit('note:changed', host, 'told')
    }
  }
  const mine = (host: PeerKey) => host === members.key
  const visible = () =>
    [...kept.values()].filter(({ host }) => mine(host) || members.isMember(host))

  return {
    open() {
      load()
      events.on('members:changed', onMembers)
    },
    async close() {
      events.off('members:changed', onMembers)
      await writing
    },
    all: visible,
    of: host => visible().find(one => one.host === host),
    marks: () => visible().map(({ mark }) => mark),
    get: host => (mine(host) || members.isMember(host) ? kept.get(host)?.bytes : undefined),
    wants: mark => {
      const host = mark.host as PeerKey
      if (mine(host)) return beatsOwn(mark)
      return members.isMember(host) && newer(mark, kept.get(host)?.mark)
    },
    offer(signed) {
      const one = open(Buffer.from(signed))
      if (mine(one.host)) {
        if (beatsOwn(one.mark)) overtaken(one)
        return 'mine'
      }
      if (!members.isMember(one.host)) return 'stranger'
      if (!newer(one.mark, kept.get(one.host)?.mark)) return 'known'
      kept.set(one.host, one)
      save(one)
      events.emit('note:changed', one.host, 'told')
      return 'newer'
    },
    setOwn(signed) {
      const one = open(signed)
      writeWhole(fileOf(members.key), signed, NOTE_MODE)
      kept.set(members.key, one)
      events.emit('note:changed', members.key, 'us')
    },
    onOvertaken: listener => void (overtaken = listener),
  }
}
