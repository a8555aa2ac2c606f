import { NARINFO_MAX_BYTES, parseNarinfo } from '../../protocol/narinfo.ts'
import { problemOf } from '../../protocol/errors.ts'
import type { NarInfo } from '../../protocol/path-info.ts'
import type { HashPart } from '../../protocol/store-path.ts'
import { readStamped, resolveBelow, stampOf } from './file-stamp.ts'
import type { FileStamp } from './file-stamp.ts'
import type { Holding } from './holder.ts'
import type { Reachability } from './reachability.ts'
import { createWeightedCache } from './weighted-cache.ts'

// From a hash part to a holding of a flat cache directory: `<hash part>.narinfo` and the NAR file it names. What was
// read is kept in memory, under the state of both files, which two stat calls ask anew at every question.

/** Most narinfos kept parsed, and the bytes of their texts: some 8 MiB of memory with what was made of them. */
const PARSED_MAX_ENTRIES = 8192
const PARSED_MAX_BYTES = 4 * 1024 * 1024

/** Identities remembered whose file hash turned out wrong. */
const WRONG_FILE_HASHES_MAX = 4096

/** What a holding of a cache directory is checked against. */
export interface Origin {
  /** As named: a change of a link on the way shows in the state. */
  readonly narinfoPath: string
  readonly narPath: string
  /** Without links; below the directory. */
  readonly narFile: string
  readonly url: string
  readonly narinfoStamp: FileStamp
  readonly narStamp: FileStamp
}

const ORIGIN = Symbol('files behind a holding of a cache directory')

interface FileHolding extends Holding {
  readonly [ORIGIN]: Origin
}

/** The files behind a holding; undefined for one that no cache directory made. */
export const originOf = (holding: Holding): Origin | undefined =>
  (holding as Partial<FileHolding>)[ORIGIN]

interface Parsed {
  readonly stamp: FileStamp
  readonly storeDir: string
  /** Undefined where the narinfo is malformed. */
  readonly info: NarInfo | undefined
  /** The holding made of it last, good for one state of the NAR file. */
  holding?: FileHolding | undefined
}

/** What finds holdings in one cache directory. */
export interface Lookup {
  find(hashPart: HashPart, storeDir: string): Holding | undefined
  /** The same without filling the memory: for walks over everything. */
  peek(hashPart: HashPart, storeDir: string): NarInfo | undefined
  isCurrent(holding: Holding): boolean
  /** The NAR is right, the file's hash is not what the narinfo claims: it is not told again. */
  forgetFileHash(holding: Holding): void
}

/** Makes the lookup of one directory. */
export function createLookup(dir: string, reach: Reachability): Lookup {
  const parsed = createWeightedCache<Parsed>(PARSED_MAX_ENTRIES, PARSED_MAX_BYTES)
  const wrongFileHashes = new Set<string>()
  let freshCount = 0

  const narinfoPathOf = (hashPart: HashPart): string => `${dir}/${hashPart}.narinfo`

  const refuse = (path: string, stamp: FileStamp, problem: string): undefined => {
    reach.bad(`${path}\n${stamp.text}\n${problem}`, path, problem)
    return undefined
  }

  const parse = (
    hashPart: HashPart,
    path: string,
    stamp: FileStamp,
    storeDir: string,
  ): NarInfo | undefined => {
    if (!stamp.isFile) return refuse(path, stamp, 'the narinfo is not a regular file')
    if (stamp.size > NARINFO_MAX_BYTES) {
      return refuse(path, stamp, `the narinfo is larger than ${NARINFO_MAX_BYTES} bytes`)
    }
    const resolved = resolveBelow(dir, `${hashPart}.narinfo`)
    if (resolved === undefined) return undefined
    if (!resolved.inside) return refuse(path, stamp, 'the narinfo lies outside the cache')
    const bytes = readStamped(resolved.file, stamp)
    // Changed or taken away since: the next question sees what it is then.
    if (bytes === undefined) return undefined
    try {
      return parseNarinfo(bytes, { storeDir, expected: hashPart })
    } catch (error) {
      return refuse(path, stamp, problemOf(error))
    }
  }

  const lookUp = (hashPart: HashPart, storeDir: string): Parsed | undefined => {
    const path = narinfoPathOf(hashPart)
    const stamp = stampOf(path)
    if (stamp === undefined) {
      parsed.delete(hashPart)
      return undefined
    }
    const known = parsed.get(hashPart)
    if (known?.stamp.text === stamp.text && known.storeDir === storeDir) return known
    const entry: Parsed = { stamp, storeDir, info: parse(hashPart, path, stamp, storeDir) }
    // A state that could change without a sign is not worth remembering.
    if (stamp.fresh) parsed.delete(hashPart)
    else parsed.set(hashPart, entry, stamp.size)
    return entry
  }

  const narFileOf = (
    info: NarInfo,
    narinfoStamp: FileStamp,
  ): { readonly stamp: FileStamp; readonly file: string } | undefined => {
    const stamp = stampOf(`${dir}/${info.url}`)
    if (stamp === undefined) return undefined
    if (!stamp.isFile) return refuse(info.storePath, narinfoStamp, `${info.url} is no regular file`)
    const resolved = resolveBelow(dir, info.url)
    if (resolved === undefined) return undefined
    if (!resolved.inside) {
      return refuse(info.storePath, narinfoStamp, `${info.url} lies outside the cache`)
    }
    return { stamp, file: resolved.file }
  }

  const find = (hashPart: HashPart, storeDir: string): Holding | undefined => {
    const entry = lookUp(hashPart, storeDir)
    if (entry?.info === undefined) return undefined
    const { info, stamp: narinfoStamp, holding: made } = entry
    if (
      made !== undefined &&
      stampOf(made[ORIGIN].narPath)?.text === made[ORIGIN].narStamp.text &&
      !wrongFileHashes.has(made.identity)
    ) {
      return made
    }
    const nar = narFileOf(info, narinfoStamp)
    if (nar === undefined) return undefined
    const fresh = narinfoStamp.fresh || nar.stamp.fresh
    // What was verified in a fresh state must not stand for a later one that looks the same.
    const salt = fresh ? `.fresh${process.pid}-${++freshCount}` : ''
    const identity = `${narinfoStamp.text}-${nar.stamp.text}${salt}`
    const told = info.fileSize === undefined || info.fileSize === nar.stamp.size
    const { url, compression, fileHash, fileSize: _claimed, ...pathInfo } = info
    const holding: FileHolding = {
      info: pathInfo,
      identity,
      builtHere: false,
      compression,
      fileSize: nar.stamp.size,
      fileHash: told && !wrongFileHashes.has(identity) ? fileHash : undefined,
      [ORIGIN]: {
        narinfoPath: narinfoPathOf(hashPart),
        narPath: `${dir}/${url}`,
        narFile: nar.file,
        url,
        narinfoStamp,
        narStamp: nar.stamp,
      },
    }
    entry.holding = fresh || wrongFileHashes.has(identity) ? undefined : holding
    return holding
  }

  return {
    find,
    peek(hashPart, storeDir) {
      const path = narinfoPathOf(hashPart)
      const stamp = stampOf(path)
      if (stamp === undefined) return undefined
      const info = parse(hashPart, path, stamp, storeDir)
      return info !== undefined && narFileOf(info, stamp) !== undefined ? info : undefined
    },
    isCurrent(holding) {
      const origin = originOf(holding)
      return (
        origin !== undefined &&
        stampOf(origin.narinfoPath)?.text === origin.narinfoStamp.text &&
        stampOf(origin.narPath)?.text === origin.narStamp.text
      )
    },
    forgetFileHash({ identity }) {
      if (wrongFileHashes.size >= WRONG_FILE_HASHES_MAX) wrongFileHashes.clear()
      wrongFileHashes.add(identity)
    },
  }
}
