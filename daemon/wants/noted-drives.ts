import type { Whereabouts } from '../../protocol/api-wants.ts'
import { decodeHaveDigest } from '../../protocol/have-digest.ts'
import type { HostNote, NotedDrive } from '../../protocol/host-note-fields.ts'
import type { HashPart } from '../../protocol/store-path.ts'
import type { PeerKey } from '../site.ts'
import type { HostPresence } from './knowledge.ts'
import type { KnownNote, Notes } from './note-shelf.ts'

// Drives that other hosts tell of: what is on them is known by their digests, plugged there or in a drawer.

/** Digests kept in memory: 8 bytes a path each. */
const DIGESTS_KEPT = 40

/** A drive as a host tells of it. */
export interface ToldDrive {
  readonly host: PeerKey
  readonly presence: HostPresence
  readonly drive: NotedDrive
}

export interface NotedDrives {
  /** Drives of other hosts that have a path, each once: where it is plugged, else where it was seen last. */
  withPath(hashPart: HashPart): readonly ToldDrive[]
  /** Drives of that name or id, told of by others. */
  named(nameOrId: string): readonly ToldDrive[]
  has(drive: NotedDrive, hashPart: HashPart): boolean
  /** Whether what that host says it has may only lie on a drive that is plugged there. */
  mayBeOnDrive(note: HostNote, hashPart: HashPart): boolean
  /** Hosts with a drive plugged of which not all is merged, and the digests of what is on it. */
  suspects(): { readonly key: PeerKey; readonly digests: readonly Uint8Array[] }[]
}

/** A drive in words for people. */
export const whereaboutsOf = ({ presence, drive }: ToldDrive): Whereabouts => {
  const here = drive.plugged && presence.up
  const lastSeen = drive.plugged ? (presence.lastSeen ?? drive.lastSeen) : drive.lastSeen
  return { host: presence.name, up: here, drive: drive.name, plugged: drive.plugged, lastSeen }
}

export function createNotedDrives(options: {
  readonly notes: Pick<Notes, 'all'>
  readonly own: PeerKey
  readonly presence: (key: PeerKey) => HostPresence
}): NotedDrives {
  const { notes, own, presence } = options
  const digests = new Map<string, (hashPart: HashPart) => boolean>()

  const has = ({ have }: NotedDrive, hashPart: HashPart): boolean => {
    if (have === undefined) return false
    let known = digests.get(have)
    if (known === undefined) {
      try {
        known = decodeHaveDigest(Buffer.from(have, 'base64')).has
      } catch {
        known = () => false
      }
    } else {
      // Put last: the one used longest ago goes first.
      digests.delete(have)
    }
    digests.set(have, known)
    for (const oldest of digests.keys()) {
      if (digests.size <= DIGESTS_KEPT) break
      digests.delete(oldest)
    }
    return known(hashPart)
  }
  const others = (): KnownNote[] => notes.all().filter(({ host }) => host !== own)
  const told = (fits: (drive: NotedDrive) => boolean): ToldDrive[] => {
    const newest = new Map<string, ToldDrive>()
    for (const { host, note } of others()) {
      for (const drive of note.drives) {
        if (!fits(drive)) continue
        const before = newest.get(drive.id)?.drive
        const better =
          before === undefined ||
          (drive.plugged === before.plugged ? drive.lastSeen > before.lastSeen : drive.plugged)
        if (better) newest.set(drive.id, { host, presence: presence(host), drive })
      }
    }
    return [...newest.values()]
  }

  const mergedParts = () => new Set(notes.all().flatMap(({ note }) => note.merged))
  /** Drives plugged there of which not all is in somebody's cache. */
  const unmerged = ({ drives }: HostNote, merged: ReadonlySet<string>): NotedDrive[] =>
    drives.filter(
      ({ plugged, shipment }) =>
        plugged && (shipment === undefined || !merged.has(`${shipment.id}/${shipment.part}`)),
    )

  return {
    has,
    mayBeOnDrive: (note, hashPart) =>
      unmerged(note, mergedParts()).some(drive => drive.have === undefined || has(drive, hashPart)),
    withPath: hashPart => told(drive => has(drive, hashPart)),
    named: nameOrId => told(({ id, name }) => id === nameOrId || name === nameOrId),
    suspects() {
      const merged = mergedParts()
      return others().flatMap(({ host, note }) => {
        const digests = unmerged(note, merged).flatMap(({ have }) =>
          have === undefined ? [] : [Buffer.from(have, 'base64')],
        )
        return digests.length === 0 ? [] : [{ key: host, digests }]
      })
    },
  }
}
