import { setImmediate as turn } from 'node:timers/promises'
import type { Logger } from 'pino'
import type {
  MissingReply,
  MissingRequest,
  WantAddRequest,
  WantRemoveReply,
  WantsReply,
  WantStatus,
} from '../../protocol/api-wants.ts'
import { fail } from '../../protocol/errors.ts'
import type { Sign } from '../../protocol/signed-json.ts'
import { hashPartOf, type HashPart, type StorePath } from '../../protocol/store-path.ts'
import { formatWantList, type Want } from '../../protocol/want-list.ts'
import { parsePlainText } from '../../protocol/json-texts.ts'
import type { Holder } from '../holders/holder.ts'
import { readDerivation } from './derivations.ts'
import type { Have } from './have.ts'
import { findMissing, type MissingParts, type MissingRoots } from './missing.ts'
import { openPlace, type PlaceParts } from './places.ts'
import { derivationOf, resolveWish, storePathOf } from './resolve-wish.ts'
import { countHeld, type SiteWant, type SiteWants } from './site-wants.ts'
import type { WantBook } from './want-book.ts'

/** How urgent a want is of which nobody said it. */
export const USUAL_PRIORITY = 5

/** What the questions about wants, haves and lacks are answered from. */
export interface WantsParts {
  readonly book: WantBook
  readonly siteWants: SiteWants
  readonly have: Have
  readonly storeDir: string
  readonly sign: Sign
  /** This host's own. */
  readonly holders: () => readonly Holder[]
  /** Whether anybody of the site has a path, on or off. */
  readonly isHeld: (hashPart: HashPart) => boolean | Promise<boolean>
  /** How many paths have a name like that. */
  readonly countNamed: (pattern: string) => Promise<number>
  readonly places: PlaceParts
  readonly missing: Omit<MissingParts, 'read' | 'look'>
  readonly log: Logger
}

/** The answers, as the API and other rooms ask for them. */
export interface Wants {
  list(): Promise<WantsReply>
  /** Throws WANT_INVALID, WANTS_FULL, STORE_PATH_INVALID. */
  add(request: WantAddRequest): Promise<WantsReply>
  /** Throws WANT_UNKNOWN for the first that this host has not; nothing is removed then. */
  remove(wants: readonly string[]): WantRemoveReply
  /** The site's want list, signed. */
  exportList(): Buffer
  have: Have['make']
  /** Throws what a root or place cannot be asked for. */
  findMissing(
    request: MissingRequest,
    options?: {
      readonly signal?: AbortSignal
      readonly onProgress?: (looked: number, missing: number) => void
    },
  ): Promise<MissingReply>
  /** What is wished for and nobody of the site has. */
  wantsMissing(): Promise<readonly StorePath[]>
  /** What goes back with a drive: the have digest and the want list. */
  travel(): Promise<readonly { readonly file: string; readonly bytes: Uint8Array }[]>
}

export function createWants(parts: WantsParts): Wants {
  const { book, siteWants, have, storeDir, sign, isHeld, places } = parts
  const read = (path: StorePath) => readDerivation(path, parts.holders())
  const held = (path: StorePath) => isHeld(hashPartOf(path))

  const statusOf = async ({ host, hostName, own, want }: SiteWant): Promise<WantStatus> => {
    const { paths, kind, text, ...rest } = want
    const common = { ...rest, kind, text, host: hostName, hostKey: host, own }
    if (kind === 'pattern') {
      const count = await parts.countNamed(text)
      return { ...common, paths: count, have: count, missing: 0, fulfilled: count > 0 }
    }
    const counts = await countHeld(paths, held, turn)
    return { ...common, paths: paths.length, ...counts, fulfilled: counts.missing === 0 }
  }
  const list = async (which: readonly SiteWant[]): Promise<WantsReply> => {
    const wants: WantStatus[] = []
    for (const one of which) wants.push(await statusOf(one))
    return { wants }
  }
  const own = (which: readonly Want[]) => {
    const ids = new Set(which.map(({ id }) => id))
    return siteWants.list().filter(one => one.own && ids.has(one.want.id))
  }

  const rootsOf = ({ roots, wants = false }: MissingRequest): MissingRoots => {
    const paths: StorePath[] = []
    const derivations: { path: StorePath; names: readonly string[] | undefined }[] = []
    for (const root of roots) {
      const derivation = derivationOf(root, storeDir)
      if (derivation !== undefined) derivations.push(derivation)
      else {
        const problem = `it is not below ${storeDir}`
        paths.push(storePathOf(root, storeDir) ?? fail('ROOT_UNKNOWN', { root, problem }))
      }
    }
    if (wants) for (const { want } of siteWants.list()) paths.push(...want.paths)
    return { paths, derivations }
  }

  return {
    list: () => list(siteWants.list()),
    async add({ wants, priority = USUAL_PRIORITY, by }) {
      const wishes = []
      for (const asked of wants) {
        const wish = await resolveWish(asked, { storeDir, read })
        wishes.push({ ...wish, text: parsePlainText(wish.text), priority, by: parsePlainText(by) })
      }
      return list(own(book.add(wishes)))
    },
    remove(wants) {
      const known = (want: string) =>
        book.list().some(({ id, text }) => id === want || text === want)
      const unknown = wants.find(want => !known(want))
      if (unknown !== undefined) fail('WANT_UNKNOWN', { want: unknown })
      const removed = wants.flatMap(want => book.remove(want))
      return { removed: removed.map(({ id, text }) => ({ id, text })) }
    },
    exportList: () => formatWantList(siteWants.wantList(), sign),
    have: have.make,
    async findMissing(request, { signal, onProgress } = {}) {
      const roots = rootsOf(request)
      const place = await openPlace(request.place, places)
      try {
        const options = { build: request.build === true, signal, onProgress }
        const { look } = places
        return await findMissing(roots, place, { ...parts.missing, look, read }, options)
      } finally {
        await place.close()
      }
    },
    async wantsMissing() {
      const lacking = new Set<StorePath>()
      for (const { want } of siteWants.list()) {
        await countHeld(
          want.paths,
          async path => {
            const is = await held(path)
            if (!is) lacking.add(path)
            return is
          },
          turn,
        )
      }
      return [...lacking]
    },
    async travel() {
      const digest = await have.travelFile()
      const list = siteWants.wantList()
      const time = list.createdAt.replace(/\.\d+Z$/, 'Z').replaceAll(':', '-')
      const file = `narwharf/want/${list.site}-${time}.json`
      return [digest, { file, bytes: formatWantList(list, sign) }]
    },
  }
}
