import { createHash } from 'node:crypto'
import { problemOf } from '../../protocol/errors.ts'
import { NARINFO_MAX_BYTES, parseNarinfo } from '../../protocol/narinfo.ts'
import type { NarInfo } from '../../protocol/path-info.ts'
import { SPLIT_PARTS_MAX, splitFiles } from '../../protocol/shipment.ts'
import { hashPartOf, type HashPart } from '../../protocol/store-path.ts'
import type { DriveFiles } from './drive-files.ts'
import type { DriveIndex } from './drive-index.ts'
import type { FileStamp } from './file-stamp.ts'
import type { Holding } from './holder.ts'
import type { Reachability } from './reachability.ts'
import { createWeightedCache } from './weighted-cache.ts'

// From a hash part to a holding on a drive: what its narinfo says, from the shipment's index where there is one that is
// believed and else from its file, and the state of the file (or files) that its NAR lies in.

/** Holdings kept, and the bytes of their narinfos: some megabytes of memory. */
const KEPT_MAX_ENTRIES = 4096
const KEPT_MAX_BYTES = 2 * 1024 * 1024

/** What a holding in memory is counted as where its narinfo was not read, bytes. */
const INDEXED_BYTES = 500

/** Identities remembered whose file hash turned out wrong. */
const WRONG_FILE_HASHES_MAX = 4096

/** A NAR's place: one name in the folder of NARs, as every writer of flat caches makes it. */
const NAR_URL = /^nar\/(?!\.)[0-9A-Za-z._+=-]{1,250}$/

/** What a holding on a drive is checked against. */
export interface DriveOrigin {
  readonly url: string
  /** Undefined where the index told. */
  readonly narinfo: { readonly file: string; readonly text: string } | undefined
  /** The files that the NAR lies in, in order, with their states. */
  readonly nars: readonly {
    readonly file: string
    readonly text: string
    readonly size: number
  }[]
}

const ORIGIN = Symbol('files behind a holding on a drive')

interface DriveHolding extends Holding {
  readonly [ORIGIN]: DriveOrigin
}

/** The files behind a holding; undefined for one that no drive made. */
export const driveOriginOf = (holding: Holding): DriveOrigin | undefined =>
  (holding as Partial<DriveHolding>)[ORIGIN]

/** What an index tells, as a holding whose files nobody has looked at: {@link DriveLookup.isCurrent} says no. */
export function recalledHolding(info: NarInfo): Holding {
  const { url, compression, fileHash, fileSize, ...pathInfo } = info
  return {
    info: pathInfo,
    identity: `recalled.${url}`,
    builtHere: false,
    compression,
    fileHash,
    fileSize,
  }
}

export interface DriveLookupOptions {
  readonly files: DriveFiles
  readonly reach: Reachability
  /** Not the same at two pluggings: what was verified at one says nothing of another, as the drive was elsewhere between. */
  readonly salt: string
  readonly index: () => DriveIndex | undefined
}

/** What finds holdings on one drive. */
export interface DriveLookup {
  /** What was found last, where it still stands: at once. */
  known(part: HashPart): Holding | undefined
  find(part: HashPart, storeDir: string): Promise<Holding | undefined>
  /** What its narinfo file says, and whether its NAR is there; for walks over everything. */
  peek(part: HashPart, storeDir: string): Promise<Found | undefined>
  isCurrent(holding: Holding): boolean
  /** The NAR is right, the file's hash is not what the narinfo claims: it is not told again. */
  forgetFileHash(holding: Holding): void
}

/** What a narinfo says and the files that its NAR lies in. */
export interface Found {
  readonly info: NarInfo
  readonly parts?: number | undefined
}

interface Nar {
  readonly stamps: readonly (FileStamp & { readonly file: string })[]
  readonly split: boolean
}

/** Makes the lookup of one drive. */
export function createDriveLookup({ files, reach, salt, index }: DriveLookupOptions): DriveLookup {
  const kept = createWeightedCache<DriveHolding>(KEPT_MAX_ENTRIES, KEPT_MAX_BYTES)
  const wrongFileHashes = new Set<string>()
  let freshCount = 0

  const refuse = (file: string, state: string, problem: string): undefined => {
    const path = `${files.dir}/${file}`
    reach.bad(`${path}\n${state}\n${problem}`, path, problem)
    return undefined
  }

  const isCurrent = (holding: Holding): boolean => {
    const origin = driveOriginOf(holding)
    if (origin === undefined || files.isStuck) return false
    const { narinfo, nars } = origin
    return [...(narinfo === undefined ? [] : [narinfo]), ...nars].every(
      ({ file, text }) => files.stampNow(file)?.text === text,
    )
  }

  /** Within a turn of the drive. */
  const readNarinfo = async (part: HashPart, storeDir: string) => {
    const file = `${part}.narinfo`
    const read = await files.read(file, NARINFO_MAX_BYTES)
    if (read === undefined) return undefined
    const { stamp, bytes, problem } = read
    if (bytes === undefined) return refuse(file, stamp.text, `the narinfo ${problem}`)
    try {
      return { file, stamp, info: parseNarinfo(bytes, { storeDir, expected: part }) }
    } catch (error) {
      return refuse(file, stamp.text, problemOf(error))
    }
  }

  const findNar = async (url: string): Promise<Nar | undefined> => {
    if (!NAR_URL.test(url)) return refuse(url, '', 'its NAR does not lie in nar/')
    const whole = await files.stampOf(url)
    if (whole !== undefined) {
      if (!whole.isFile) return refuse(url, whole.text, `${url} is no regular file`)
      return { stamps: [{ ...whole, file: url }], split: false }
    }
    const stamps: (FileStamp & { readonly file: string })[] = []
    for (const file of splitFiles({ url, parts: SPLIT_PARTS_MAX })) {
      const stamp = await files.stampOf(file)
      if (stamp?.isFile !== true) break
      stamps.push({ ...stamp, file })
    }
    return stamps.length === 0 ? undefined : { stamps, split: true }
  }

  const hold = (
    info: NarInfo,
    narinfo: { readonly file: string; readonly stamp: FileStamp } | undefined,
    { stamps, split }: Nar,
  ): DriveHolding => {
    const isFresh = narinfo?.stamp.fresh === true || stamps.some(({ fresh }) => fresh)
    const states = [...(narinfo === undefined ? [] : [narinfo.stamp]), ...stamps]
    const text = states.map(stamp => stamp.text).join('-')
    const state = split ? createHash('sha256').update(text).digest('base64url') : text
    // What was verified in a fresh state must not stand for a later one that looks the same.
    const identity = `${salt}.${state}${isFresh ? `.fresh${++freshCount}` : ''}`
    const size = stamps.reduce((sum, stamp) => sum + stamp.size, 0)
    const told = info.fileSize === undefined || info.fileSize === size
    const { url, compression, fileHash, fileSize: _claimed, ...pathInfo } = info
    return {
      info: pathInfo,
      identity,
      // Whoever packed it may have built it; this host did not.
      builtHere: false,
      compression,
      fileSize: size,
      fileHash: told && !wrongFileHashes.has(identity) ? fileHash : undefined,
      [ORIGIN]: {
        url,
        narinfo: narinfo && { file: narinfo.file, text: narinfo.stamp.text },
        nars: stamps.map(stamp => ({ file: stamp.file, text: stamp.text, size: stamp.size })),
      },
    }
  }

  const lookUp = async (part: HashPart, storeDir: string): Promise<DriveHolding | undefined> => {
    const indexed = index()?.find(part)
    const told = indexed && (await findNar(indexed.info.url))
    if (indexed !== undefined && told !== undefined) return hold(indexed.info, undefined, told)
    const narinfo = await readNarinfo(part, storeDir)
    const nar = narinfo && (await findNar(narinfo.info.url))
    return narinfo && nar && hold(narinfo.info, narinfo, nar)
  }

  return {
    isCurrent,
    known(part) {
      const holding = kept.get(part)
      if (holding === undefined || isCurrent(holding)) return holding
      kept.delete(part)
      return undefined
    },
    async find(part, storeDir) {
      const found = await files.run(() => lookUp(part, storeDir))
      if (found === undefined || found.identity.includes('.fresh')) kept.delete(part)
      else kept.set(part, found, INDEXED_BYTES)
      return found
    },
    peek: (part, storeDir) =>
      files.run(async () => {
        const narinfo = await readNarinfo(part, storeDir)
        const nar = narinfo && (await findNar(narinfo.info.url))
        if (narinfo === undefined || nar === undefined) return undefined
        return nar.split ? { info: narinfo.info, parts: nar.stamps.length } : { info: narinfo.info }
      }),
    forgetFileHash({ identity, info }) {
      if (wrongFileHashes.size >= WRONG_FILE_HASHES_MAX) wrongFileHashes.clear()
      wrongFileHashes.add(identity)
      kept.delete(hashPartOf(info.storePath))
    },
  }
}
