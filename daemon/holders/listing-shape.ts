import { splitInside } from './small-file.ts'

// The `.ls` listing of a NAR that others wrote: {"version":1,"root":node}, node by `type`:
//
//   {"type":"regular","size":n,"executable":true?,"narOffset":n}
//   {"type":"symlink","target":"…"}
//   {"type":"directory","entries":{"name":node,…}}
//
// Source: NixOS/nix src/libutil/nar-accessor.cc (listNar). Without narOffset it is of no use to a client that wants one file.

/** Deepest nesting, as Nix >= 2.34 allows in a NAR. */
const DEPTH_MAX = 64

/** A regular file in a listing: its content is NAR bytes `narOffset` to `narOffset + size`. */
export interface ListedFile {
  readonly size: number
  readonly narOffset: number
}

type JsonObject = Readonly<Record<string, unknown>>

const isObject = (value: unknown): value is JsonObject =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

const isCount = (value: unknown): value is number =>
  Number.isSafeInteger(value) && Number(value) >= 0

function rootOf(bytes: Buffer): unknown {
  try {
    const listing: unknown = JSON.parse(bytes.toString())
    return isObject(listing) && listing['version'] === 1 ? listing['root'] : undefined
  } catch {
    return undefined
  }
}

const asFile = (node: unknown): ListedFile | undefined => {
  if (!isObject(node) || node['type'] !== 'regular') return undefined
  const { size, narOffset } = node
  return isCount(size) && isCount(narOffset) ? { size, narOffset } : undefined
}

/** Whether bytes are a listing of a NAR of that size: the shape, names, nesting, and every file within the NAR. */
export function isListing(bytes: Buffer, narSize: number): boolean {
  const left: { readonly node: unknown; readonly depth: number }[] = [
    { node: rootOf(bytes), depth: 0 },
  ]
  for (let next = left.pop(); next !== undefined; next = left.pop()) {
    const { node, depth } = next
    if (!isObject(node) || depth > DEPTH_MAX) return false
    switch (node['type']) {
      case 'regular': {
        const file = asFile(node)
        if (file === undefined || file.narOffset + file.size > narSize) return false
        break
      }
      case 'symlink':
        if (typeof node['target'] !== 'string') return false
        break
      case 'directory': {
        const { entries } = node
        if (!isObject(entries)) return false
        for (const [name, child] of Object.entries(entries)) {
          if (splitInside(name)?.length !== 1) return false
          left.push({ node: child, depth: depth + 1 })
        }
        break
      }
      default:
        return false
    }
  }
  return true
}

/** A regular file by its path inside the NAR ('' is the root), or undefined. */
export function findListed(bytes: Buffer, pathInside: string): ListedFile | undefined {
  const names = splitInside(pathInside)
  if (names === undefined) return undefined
  let node = rootOf(bytes)
  for (const name of names) {
    const entries: unknown = isObject(node) && node['type'] === 'directory' && node['entries']
    if (!isObject(entries) || !Object.hasOwn(entries, name)) return undefined
    node = entries[name]
  }
  return asFile(node)
}
