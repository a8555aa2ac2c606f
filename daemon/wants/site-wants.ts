import { hashPartOf, type HashPart, type StorePath } from '../../protocol/store-path.ts'
import { WANT_PATHS_MAX, WANTS_MAX, type Want, type WantList } from '../../protocol/want-list.ts'
import type { EventBus } from '../events.ts'
import type { Members, PeerKey } from '../site.ts'
import { matchGlob } from '../trust/glob.ts'
import type { Notes } from './note-shelf.ts'
import { wantOf, type WantBook } from './want-book.ts'

/** A want with the host on which it was asked for. */
export interface SiteWant {
  readonly host: PeerKey
  readonly hostName: string
  readonly own: boolean
  readonly want: Want
}

/** What the whole site wishes for: this host's book, and the others' notes, whether they are on or off. */
export interface SiteWants {
  /** The most urgent first, then the oldest. */
  list(): readonly SiteWant[]
  /** How urgently a path is wanted, 1 to 9; undefined where nobody wants it. By patterns only where the name is given. */
  wanted(hashPart: HashPart, name?: string): number | undefined
  /** As a file says it: the least urgent are left out where there are more than one can have. */
  wantList(): WantList
  close(): void
}

interface Picture {
  readonly wants: readonly SiteWant[]
  readonly byPart: ReadonlyMap<HashPart, number>
  readonly patterns: readonly { readonly pattern: string; readonly priority: number }[]
}

/** Nix names are ASCII; who looks for Firefox means firefox. */
const fits = (pattern: string, name: string): boolean =>
  matchGlob(pattern.toLowerCase(), name.toLowerCase())

const byUrgency = (a: SiteWant, b: SiteWant): number =>
  a.want.priority - b.want.priority ||
  (a.want.since < b.want.since ? -1 : Number(a.want.since > b.want.since))

export function createSiteWants(options: {
  readonly book: WantBook
  readonly notes: Notes
  readonly members: Members
  readonly events: EventBus
  readonly hostName: string
  readonly storeDir: string
  readonly clock?: (() => Date) | undefined
}): SiteWants {
  const { book, notes, members, events, hostName, storeDir, clock = () => new Date() } = options
  let picture: Picture | undefined

  const forget = () => void (picture = undefined)
  events.on('note:changed', forget)
  events.on('members:changed', forget)

  const collect = (): SiteWant[] => {
    const mine = { host: members.key, hostName: members.nameOf(members.key) ?? hostName, own: true }
    const wants: SiteWant[] = book.list().map(want => ({ ...mine, want }))
    for (const { host, note } of notes.all()) {
      // A store elsewhere has other paths: what it wishes for is nothing that can be merged here.
      if (host === members.key || note.storeDir !== storeDir) continue
      const whose = { host, hostName: members.nameOf(host) ?? host.slice(0, 12), own: false }
      wants.push(...note.wants.map(want => ({ ...whose, want: wantOf(want, storeDir) })))
    }
    return wants.sort(byUrgency)
  }
  const look = (): Picture => {
    if (picture !== undefined) return picture
    const wants = collect()
    const byPart = new Map<HashPart, number>()
    // The most urgent comes first and stays.
    for (const { want } of wants) {
      for (const path of want.paths) {
        const hashPart = hashPartOf(path)
        if (!byPart.has(hashPart)) byPart.set(hashPart, want.priority)
      }
    }
    const patterns = wants
      .filter(({ want }) => want.kind === 'pattern')
      .map(({ want }) => ({ pattern: want.text, priority: want.priority }))
    return (picture = { wants, byPart, patterns })
  }

  return {
    // The book is asked anew: its own changes come before its note is written.
    list: () => collect(),
    wanted(hashPart, name) {
      const { byPart, patterns } = look()
      const byPath = byPart.get(hashPart)
      const byName =
        name === undefined ? undefined : patterns.find(({ pattern }) => fits(pattern, name))
      return byPath === undefined || byName === undefined
        ? (byPath ?? byName?.priority)
        : Math.min(byPath, byName.priority)
    },
    wantList() {
      let paths = 0
      const wants: Want[] = []
      for (const { host, want } of collect()) {
        paths += want.paths.length
        if (wants.length === WANTS_MAX || paths > WANT_PATHS_MAX) break
        wants.push({ ...want, id: `${host.slice(0, 12)}-${want.id}` })
      }
      const createdAt = clock().toISOString()
      return { site: members.siteName ?? hostName, createdAt, storeDir, wants }
    },
    close() {
      events.off('note:changed', forget)
      events.off('members:changed', forget)
    },
  }
}

/** How much of a want is there. */
export interface WantCounts {
  readonly have: number
  readonly missing: number
}

/** Paths asked about in one go, some 20 µs each: a narinfo request may wait behind them. */
const PATHS_AT_ONCE = 200

/** Counts which of those paths somebody of the site has. */
export async function countHeld(
  paths: readonly StorePath[],
  isHeld: (path: StorePath) => boolean | Promise<boolean>,
  rest: () => Promise<unknown>,
): Promise<WantCounts> {
  let have = 0
  for (const [index, path] of paths.entries()) {
    if (await isHeld(path)) have++
    if (index % PATHS_AT_ONCE === PATHS_AT_ONCE - 1) await rest()
  }
  return { have, missing: paths.length - have }
}
