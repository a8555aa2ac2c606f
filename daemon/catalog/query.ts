import { isStoreName, parseBaseName, parseHashPart } from '../../protocol/store-path.ts'
import type { BaseName, HashPart } from '../../protocol/store-path.ts'

/** Longest query, characters: a store path and then some. */
export const QUERY_MAX_LENGTH = 1024

/**
 * What a person may look for: one path, every path with a hash part, or names. Patterns are shell-like (`*`, `?`, `[a-z]`),
 * and both they and substrings take upper and lower case as equal.
 */
export type CatalogQuery =
  | { readonly kind: 'path'; readonly hashPart: HashPart; readonly name?: string | undefined }
  | { readonly kind: 'glob'; readonly pattern: string; readonly hashPart?: HashPart | undefined }
  | { readonly kind: 'substring'; readonly text: string }

/** Reads a query, or says in a sentence why it is none. A path inside a store path means the store path. */
export function parseQuery(text: string): CatalogQuery | { readonly problem: string } {
  const query = text.trim()
  if (query === '') return { problem: 'the query is empty' }
  if (query.length > QUERY_MAX_LENGTH) {
    return { problem: `the query is longer than ${QUERY_MAX_LENGTH} characters` }
  }
  if (query.startsWith('/')) {
    const baseName = /\/([0-9a-df-np-sv-z]{32}-[^/]+)(?:\/|$)/.exec(query)?.[1]
    if (baseName === undefined) return { problem: `${query} is not a store path` }
    return ofBaseName(baseName) ?? { problem: `${query} is not a store path` }
  }
  return ofBaseName(query) ?? ofName(query)
}

function ofBaseName(text: string): CatalogQuery | undefined {
  const hashPart = attempt(() => parseHashPart(text.slice(0, 32)))
  if (hashPart === undefined) return undefined
  if (text.length === 32) return { kind: 'path', hashPart }
  if (text[32] !== '-') return undefined
  const name = text.slice(33)
  // A name may itself hold "?", so a pattern is what has a star or bracket, or is no name.
  if (attempt(() => parseBaseName(text)) !== undefined) return { kind: 'path', hashPart, name }
  return hasWildcard(name) ? { kind: 'glob', pattern: name, hashPart } : undefined
}

function ofName(text: string): CatalogQuery | { readonly problem: string } {
  if (hasWildcard(text)) return { kind: 'glob', pattern: text }
  if (isStoreName(text) || /^[0-9A-Za-z+\-._?=]{1,211}$/.test(text)) {
    return { kind: 'substring', text }
  }
  return { problem: 'a name has only letters, digits and + - . _ ? =' }
}

const hasWildcard = (text: string): boolean => /[*?[]/.test(text)

function attempt<T>(work: () => T): T | undefined {
  try {
    return work()
  } catch {
    return undefined
  }
}

/** The name of a query's path as a base name, where it has one. */
export function baseNameOfQuery(query: CatalogQuery): BaseName | undefined {
  if (query.kind !== 'path' || query.name === undefined) return undefined
  return parseBaseName(`${query.hashPart}-${query.name}`)
}

/** A pattern over lower-case names, and a LIKE pattern that matches at least as much and can use the name index. */
export function nameMatcher(query: CatalogQuery): {
  readonly glob: string
  readonly like: string
  /** Whether the index narrows it: three literal characters in a row. */
  readonly indexed: boolean
} {
  const glob =
    query.kind === 'glob'
      ? query.pattern.toLowerCase()
      : // "?" alone stands for itself here, and only a bracket can say so.
        `*${(query.kind === 'substring' ? query.text : '').toLowerCase().replaceAll('?', '[?]')}*`
  let like = ''
  for (const [part] of glob.matchAll(/\[\^?\]?[^\]]*\]|\[.*|\*+|./gs)) {
    if (part.startsWith('*')) like += '%'
    else if (part.startsWith('[')) like += part.endsWith(']') ? '_' : '%'
    else like += part === '?' || part === '%' ? '_' : part
  }
  return { glob, like, indexed: /[^%_]{3}/.test(like) }
}
