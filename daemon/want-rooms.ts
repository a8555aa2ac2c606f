import { join } from 'node:path'
import type { Logger } from 'pino'
import type { Problem, WhoHasResult } from '../protocol/api.ts'
import { NOTED_MERGED_MAX, NOTED_MERGES_MAX } from '../protocol/host-note-fields.ts'
import type { MergedShipment } from '../protocol/have-digest.ts'
import { hashPartOf, nameOf, type HashPart, type StorePath } from '../protocol/store-path.ts'
import type { Catalog } from './catalog/catalog.ts'
import type { Config } from './config.ts'
import type { Drive, Drives } from './drives/drive.ts'
import type { EventBus } from './events.ts'
import { driveHolderId } from './holders/drive.ts'
import type { Elsewhere } from './substitution/candidates.ts'
import type { HolderList } from './holders/holder-list.ts'
import type { FarDrive } from './shipments/gather.ts'
import { aloneHere, type MergeShare } from './shipments/merge-share.ts'
import type { Members, PeerKey } from './site.ts'
import type { Substitution } from './substitution/substitution.ts'
import type { TrustRoom } from './trust/trust-room.ts'
import { createDriveDigests } from './wants/drive-digests.ts'
import { createHave } from './wants/have.ts'
import { createLook, type HostPresence } from './wants/knowledge.ts'
import { createMergeSharing } from './wants/merge-sharing.ts'
import type { UpstreamAnswer } from './wants/missing-report.ts'
import type { Notes } from './wants/note-shelf.ts'
import { createNotedDrives, whereaboutsOf } from './wants/noted-drives.ts'
import { createOwnNote, type OwnFacts } from './wants/own-note.ts'
import { createSiteWants, type SiteWants } from './wants/site-wants.ts'
import { createWantBook, notedWant } from './wants/want-book.ts'
import { createWants, type Wants } from './wants/wants.ts'
import { withNotedDrives } from './wants/who-has-drives.ts'
import type { NarPool } from './workers/nar-pool.ts'

// The room of wants, put together: what the site wishes for, has and lacks, and what this host tells it of itself.

/** What it stands on. */
export interface WantParts {
  readonly config: Config
  readonly events: EventBus
  readonly log: Logger
  readonly catalog: Catalog
  readonly pool: NarPool
  readonly trust: TrustRoom
  readonly members: Members
  /** Opened before gossip, which hands them on. */
  readonly notes: Notes
  readonly presence: (
    key: PeerKey,
  ) => Omit<HostPresence, 'name'> & { readonly name?: string | undefined }
  readonly holders: HolderList
  readonly substitution: Substitution
  readonly upstreams: Pick<Elsewhere, 'able'>
  readonly drives: Drives
  /** Notes what is to be closed, in reverse. */
  readonly push: (room: string, close: () => unknown) => void
}

/** Wants as the rest of main sees them. */
export interface WantRooms extends Wants {
  readonly wanted: SiteWants['wanted']
  readonly wantList: SiteWants['wantList']
  /** Hosts whose cache keeps what shipments bring and that are up, this one among them. */
  keepers(): readonly PeerKey[]
  /** Shipments on drives that are plugged anywhere in the site. */
  shipmentsPlugged(): readonly {
    readonly host: PeerKey
    readonly drive: string
    readonly shipment: string
    readonly part: number
  }[]
  /** A merge of that drive begins: tells the other keepers of it, and of theirs. */
  share(drive: Drive): MergeShare
  /** Shipments on drives that are plugged at other hosts within reach. */
  farDrives(): readonly FarDrive[]
  shareFar(drive: FarDrive): MergeShare
  /** Whether that part of a shipment was merged whole: by this host, or by anybody. */
  isMerged(shipment: string, part: number, by: 'self' | 'anybody'): boolean
  /** Whether anybody of the site has a path, but that holder of this host. */
  siteHas(hashPart: HashPart, butHolder?: string): boolean
  /** What is on drives of other hosts, too. */
  withDrives(results: readonly WhoHasResult[]): WhoHasResult[]
  problems(): readonly Problem[]
}

/** How often it is looked at what changes without a notice, ms: a path count of a drive. */
const LOOK_MS = 1000

/** The ledger of a digest from the parts that hosts say they merged. */
function ledgerOf(merged: Iterable<string>, partsOf: (id: string) => number): MergedShipment[] {
  const parts = new Map<string, Set<number>>()
  for (const one of merged) {
    const [id = '', part = ''] = one.split('/')
    parts.set(id, (parts.get(id) ?? new Set()).add(Number(part)))
  }
  return [...parts].map(([id, some]) => ({
    id,
    parts: [...some].sort((a, b) => a - b),
    of: Math.max(partsOf(id), ...some),
  }))
}

/** Opens it. Before gossip: what others have of this host's note must find somebody who listens. */
export async function openWants(parts: WantParts): Promise<WantRooms> {
  const { config, events, log, catalog, trust, members, notes, holders, push } = parts
  const { drives, substitution } = parts
  const storeDir = config.store.dir
  const { hostName, stateDir } = config
  const presence = (key: PeerKey): HostPresence => ({
    ...parts.presence(key),
    name: members.nameOf(key) ?? key.slice(0, 12),
  })

  const book = createWantBook({ stateDir, storeDir })
  book.open()
  const siteWants = createSiteWants({ book, notes, members, events, hostName, storeDir })
  push('the wants', () => siteWants.close())

  const noted = createNotedDrives({ notes, own: members.key, presence })
  const touch = () => ownNote.touch()
  const sharing = createMergeSharing({
    ...{ self: members.key, notes, drives: noted, indexes: catalog.indexes, events },
    isUp: key => parts.presence(key).up,
    onChange: touch,
  })
  const partsOf = (id: string): number =>
    notes
      .all()
      .flatMap(({ note }) => note.drives)
      .find(({ shipment }) => shipment?.id === id)?.shipment?.parts ?? 1
  const have = createHave({
    catalogFile: join(stateDir, 'catalog.sqlite'),
    site: () => members.siteName ?? hostName,
    sign: bytes => trust.sign(bytes),
    toldOnly: config.share.withPeers !== 'none',
    shipments: () => ledgerOf(new Set(notes.all().flatMap(({ note }) => note.merged)), partsOf),
    suspects: () => noted.suspects(),
  })
  const digests = createDriveDigests({ drives: () => drives.list(), have, onChange: touch, log })
  push('the digests of drives', () => digests.close())

  const facts = (): OwnFacts => {
    const before = notes.of(members.key)?.note.merged ?? []
    const merged = [...new Set([...before, ...sharing.merged()])]
    return {
      storeDir,
      keeper: config.cache.keepShipments,
      wants: book.list().map(notedWant),
      drives: digests.noted(),
      merges: sharing.running().slice(0, NOTED_MERGES_MAX),
      merged: merged.slice(-NOTED_MERGED_MAX),
    }
  }
  const ownNote = createOwnNote({ notes, members, facts, log })
  ownNote.open()
  book.onChange(touch)
  const drivesSaid = () =>
    JSON.stringify(drives.list().map(({ id, paths, plugged }) => [id, paths, plugged]))
  let said = drivesSaid()
  const look = () => {
    const now = drivesSaid()
    if (now === said) return
    said = now
    touch()
    digests.look()
  }
  const timer = setInterval(look, LOOK_MS).unref()
  const notices = ['drive:plugged', 'drive:changed', 'drive:gone'] as const
  for (const notice of notices) events.on(notice, look)
  digests.look()
  push('the own note', () => {
    clearInterval(timer)
    for (const notice of notices) events.off(notice, look)
    ownNote.close()
  })

  const siteHas = (hashPart: HashPart, butHolder?: string): boolean => {
    for (const holder of holders.current()) {
      if (holder.id === butHolder) continue
      try {
        if (holder.find(hashPart) !== undefined) return true
      } catch {
        // Out of reach: it has nothing now.
      }
    }
    return catalog.indexes.find(hashPart).length > 0
  }
  const inDrawers = async (path: StorePath) => {
    const query = { kind: 'path', hashPart: hashPartOf(path), name: nameOf(path) } as const
    const { matches } = await catalog.search(query, 1)
    return new Set(matches.flatMap(match => match.holders.map(({ id }) => id)))
  }
  const fromUpstream = async (path: StorePath): Promise<UpstreamAnswer | undefined> => {
    for (const holder of parts.upstreams.able(hashPartOf(path))) {
      try {
        const holding = await holder.find(hashPartOf(path))
        if (holding?.info.storePath !== path) continue
        return { info: holding.info, fileSize: holding.fileSize, name: holder.id }
      } catch {
        // The next one may answer.
      }
    }
    return undefined
  }
  const wants = createWants({
    ...{ book, siteWants, have, storeDir, log },
    sign: bytes => trust.sign(bytes),
    holders: () => holders.current(),
    isHeld: siteHas,
    async countNamed(pattern) {
      const { matches, more } = await catalog.search({ kind: 'glob', pattern }, 1)
      return matches.length + more
    },
    places: {
      look: createLook({ substitution, trust, indexes: catalog.indexes, presence, hostName }),
      ...{ storeDir, hostName, pool: parts.pool },
      siteName: () => members.siteName,
      async drive(name) {
        const plugged = drives.find(name)
        if (plugged?.holder !== undefined) return { name: plugged.name, holder: plugged.holder }
        const drawer = drives.list().find(one => one.id === name || one.name === name)
        if (drawer !== undefined) {
          const id = driveHolderId(drawer.id)
          return { name: drawer.name, has: async path => (await inDrawers(path)).has(id) }
        }
        const [told] = noted.named(name)
        if (told?.drive.have === undefined) return undefined
        return { name: told.drive.name, has: path => noted.has(told.drive, hashPartOf(path)) }
      },
    },
    missing: {
      upstream: fromUpstream,
      async drives(path) {
        const ids = await inDrawers(path)
        const own = drives
          .list()
          .filter(({ id, plugged }) => !plugged && ids.has(driveHolderId(id)))
          .map(({ name, lastSeen }) => ({
            ...{ host: hostName, up: false, drive: name, plugged: false, lastSeen },
          }))
        return [...own, ...noted.withPath(hashPartOf(path)).map(whereaboutsOf)]
      },
    },
  })

  return {
    ...wants,
    ...{ wanted: siteWants.wanted, wantList: siteWants.wantList, siteHas },
    share({ name, contents: { shipment } }) {
      if (shipment === undefined) return aloneHere
      const { id, part } = shipment.manifest
      return sharing.begin({ shipment: id, part, drive: name })
    },
    shareFar: ({ name, shipment, part }) => sharing.begin({ shipment, part, drive: name }),
    farDrives: () =>
      notes.all().flatMap(({ host, note }) => {
        const { up, name: hostName } = presence(host)
        if (host === members.key || !up) return []
        return note.drives.flatMap((drive): FarDrive[] => {
          const { id, name, plugged, shipment, have: digest } = drive
          if (!plugged || shipment === undefined || digest === undefined) return []
          const has = (hashPart: HashPart) => noted.has(drive, hashPart)
          return [{ host, hostName, id, name, shipment: shipment.id, part: shipment.part, has }]
        })
      }),
    isMerged(shipment, part, by) {
      const known = `${shipment}/${part}`
      if (facts().merged.includes(known)) return true
      return by === 'anybody' && notes.all().some(({ note }) => note.merged.includes(known))
    },
    keepers: () =>
      notes
        .all()
        .filter(({ host, note }) => note.keeper && (host === members.key || presence(host).up))
        .map(({ host }) => host),
    shipmentsPlugged: () =>
      notes
        .all()
        .flatMap(({ host, note }) =>
          note.drives.flatMap(({ id, plugged, shipment }) =>
            plugged && shipment !== undefined && (host === members.key || presence(host).up)
              ? [{ host, drive: id, shipment: shipment.id, part: shipment.part }]
              : [],
          ),
        ),
    withDrives: results => withNotedDrives(results, noted, storeDir),
    problems: () => [...book.problems(), ...ownNote.problems()],
  }
}
