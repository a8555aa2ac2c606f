import { fail } from '../../protocol/errors.ts'
import { PLAIN_TEXT_MAX_CHARACTERS } from '../../protocol/json-texts.ts'
import { joinStorePath, parseBaseName, type StorePath } from '../../protocol/store-path.ts'
import type { Wish } from './want-book.ts'
import { outputsNeeded, walkDerivations, type KnownDerivation } from './derivations.ts'

/** What is asked for, before it is known what it comes to. */
export interface WishAsked {
  /** A path, a .drv, a pattern; for a configuration the words by which people know it. */
  readonly text: string
  /** The top derivations of a configuration. */
  readonly derivations?: readonly string[] | undefined
  /** Everything it is built from as well. */
  readonly build?: boolean | undefined
}

/** `<path>.drv!out` or `<path>.drv^out,dev`. */
const OUTPUTS = /^(?<path>.+\.drv)[!^](?<names>\*|[^!^]+)$/

/** Patterns have these in them; a name without is no pattern. */
const WILDCARD = /[*?]/
const PATTERN = /^[0-9A-Za-z+\-._?=*]+$/
const BASE_NAME = /^[0-9a-df-np-sv-z]{32}-[^/]+$/

/** The store path of a text that should name one, or one inside it; undefined where it does not. Throws STORE_PATH_INVALID. */
export function storePathOf(text: string, storeDir: string): StorePath | undefined {
  const inside = text.startsWith(`${storeDir}/`) ? text.slice(storeDir.length + 1) : text
  const [baseName = ''] = inside.split('/')
  if (inside === text && (text.includes('/') || !BASE_NAME.test(text))) return undefined
  return joinStorePath(storeDir, parseBaseName(baseName))
}

/** A derivation and the outputs meant; undefined for what is none. */
export function derivationOf(
  text: string,
  storeDir: string,
): { readonly path: StorePath; readonly names: readonly string[] | undefined } | undefined {
  const { path: before = text, names } = OUTPUTS.exec(text)?.groups ?? {}
  const path = before.endsWith('.drv') ? storePathOf(before, storeDir) : undefined
  if (path === undefined || !path.endsWith('.drv')) return undefined
  return { path, names: names === undefined || names === '*' ? undefined : names.split(',') }
}

export interface WishParts {
  readonly storeDir: string
  readonly read: (path: StorePath) => Promise<KnownDerivation | undefined>
}

const refused = (want: string, problem: string): never => fail('WANT_INVALID', { want, problem })

async function configurationPaths(
  { text, derivations = [], build = false }: WishAsked,
  { storeDir, read }: WishParts,
): Promise<StorePath[]> {
  const tops = derivations.map(
    one =>
      derivationOf(one, storeDir)?.path ?? refused(text, `${one} is no derivation of ${storeDir}`),
  )
  const descend = build ? undefined : (derivation: KnownDerivation) => derivation.local
  // Inputs of a local derivation are read too: their outputs are what is wanted.
  const graph = await walkDerivations(tops, { read, descend })
  const absent = tops.find(top => !graph.known.has(top))
  if (absent !== undefined) refused(text, `nobody here has ${absent}`)
  if (graph.cut) refused(text, 'it has too many derivations')
  return outputsNeeded(tops, graph, build)
}

/** What a wish comes to here. Throws WANT_INVALID, STORE_PATH_INVALID. */
export async function resolveWish(
  asked: WishAsked,
  parts: WishParts,
): Promise<Pick<Wish, 'kind' | 'text' | 'paths'>> {
  const { text } = asked
  const { storeDir, read } = parts
  if (text === '' || text.length > PLAIN_TEXT_MAX_CHARACTERS) refused(text, 'empty or too long')
  if (asked.derivations !== undefined) {
    return { kind: 'configuration', text, paths: await configurationPaths(asked, parts) }
  }
  const drv = derivationOf(text, storeDir)
  if (drv !== undefined) {
    const known = await read(drv.path)
    if (known === undefined) return refused(text, 'nobody here has that derivation')
    const names = drv.names ?? [...known.outputs.keys()]
    const paths = names.map(name => {
      if (!known.outputs.has(name)) refused(text, `it has no output ${name}`)
      return known.outputs.get(name) ?? refused(text, 'the paths of its outputs are not known')
    })
    return { kind: 'drv', text, paths }
  }
  const path = storePathOf(text, storeDir)
  if (path !== undefined) return { kind: 'path', text: path, paths: [path] }
  if (text.startsWith('/')) return refused(text, `it is not below ${storeDir}`)
  if (!WILDCARD.test(text)) return refused(text, `as a pattern of names write ${text}-*`)
  if (!PATTERN.test(text)) return refused(text, 'names have only letters, digits and + - . _ ? =')
  return { kind: 'pattern', text, paths: [] }
}
