import { fail } from '../errors.ts'
import type { NarHandler } from './reader.ts'

/** Nodes of one listing: four times the largest store paths known (texlive, Linux sources: up to 250,000 files). */
export const MAX_LISTING_NODES = 1_000_000

/** Characters of one listing's JSON: 64 Mi hold a million nodes with names of ordinary length. */
export const MAX_LISTING_CHARACTERS = 64 * 1024 * 1024

/** Collects a listing: a handler for a reader, or for whoever walks a tree. */
export interface ListingCollector {
  readonly handler: NarHandler
  /**
   * The `.ls` JSON, once the whole NAR went through: `{"version":1,"root":{"type":"directory","entries":{…}}}`; a file
   * has `size`, `narOffset` and, if so, `"executable":true`; a symlink has `target`. The bytes are those of Nix 2.8.
   */
  json(): Buffer
}

/**
 * Collects the listing of a NAR as Nix writes it beside a NAR with `write-nar-listing` (NixOS/nix
 * src/libstore/nar-accessor.cc). JSON text has no bytes: what is not UTF-8 in a name or target becomes U+FFFD (Nix writes no listing for
 * such a NAR). The handler throws NAR_INVALID for a NAR whose listing would pass the limits above.
 */
export function createListing(): ListingCollector {
  let text = ''
  let nodes = 0
  /** Whether the next entry is the first of its directory. */
  let first = true

  const add = (piece: string): void => {
    text += piece
    if (text.length > MAX_LISTING_CHARACTERS) {
      fail('NAR_INVALID', { problem: 'its listing is too large', offset: 0 })
    }
  }

  const node = (name: Buffer | undefined, piece: string): void => {
    nodes++
    if (nodes > MAX_LISTING_NODES) {
      fail('NAR_INVALID', { problem: `it has more than ${MAX_LISTING_NODES} files`, offset: 0 })
    }
    const key = name === undefined ? '' : `${first ? '' : ','}${JSON.stringify(name.toString())}:`
    add(key + piece)
    first = false
  }

  return {
    handler: {
      directory(name) {
        node(name, '{"type":"directory","entries":{')
        first = true
      },
      regular(name, size, executable, narOffset) {
        const mark = executable ? '"executable":true,' : ''
        node(name, `{"type":"regular","size":${size},${mark}"narOffset":${narOffset}}`)
      },
      symlink(name, target) {
        node(name, `{"type":"symlink","target":${JSON.stringify(target.toString())}}`)
      },
      leave() {
        add('}}')
        first = false
      },
    },
    json: () => Buffer.from(`{"version":1,"root":${text}}`),
  }
}
