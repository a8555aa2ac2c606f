import { createHash } from 'node:crypto'
import { mkdir, open, readdir, rename, rm } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import { deflateRawSync } from 'node:zlib'
import { fail, isNarwharfError, problemOf } from '../../protocol/errors.ts'
import {
  formatShipment,
  parseShipment,
  SHIPMENT_MANIFEST_FILE,
  SHIPMENT_MANIFEST_MAX_BYTES,
  shipmentIdOf,
  type ShipmentManifest,
  type ShipmentSection,
  type SignedShipment,
} from '../../protocol/shipment.ts'
import {
  createShipmentIndexWriter,
  SHIPMENT_INDEX_ENTRIES_MAX,
  shipmentIndexFile,
  type ShipmentEntry,
} from '../../protocol/shipment-index.ts'
import type { Sign } from '../../protocol/signed-json.ts'
import { hashPartOf, type HashPart, type StorePath } from '../../protocol/store-path.ts'
import { UNFINISHED } from '../holders/cache-dir-writer.ts'
import { readSmallFile } from '../holders/small-file.ts'
import type { ShipTarget } from './pack-target.ts'

// The index and the manifest, written last: until then the drive has what it had before, and a cache that grows. An index file
// has its hash in its name, so that the manifest of before stays right until the new one takes its place.

/** Entries encoded at a time. */
const ENTRIES_AT_ONCE = 500

/** Of the hash in the name of an index file. */
const NAME_HASH_DIGITS = 12

/** As for the index log; the bytes of an index depend on it. */
const DEFLATE_LEVEL = 6

const deflate = (bytes: Uint8Array): Buffer => deflateRawSync(bytes, { level: DEFLATE_LEVEL })

export interface SealOptions {
  readonly target: ShipTarget
  readonly sign: Sign
  /** What was packed, in its order: it comes first in the index. */
  readonly packed: Iterable<HashPart>
  /** Whether what lies there is what its narinfo says: nothing else gets into the index. */
  readonly isRight: (entry: ShipmentEntry) => Promise<boolean>
  /** Whether this host built it, or vouches for it. */
  readonly isBuiltHere: (hashPart: HashPart) => boolean
  /** Content of all parts, where there are several: it makes their common id. */
  readonly content?: Iterable<PathContent> | undefined
  /** The common id itself, where it is known and the content of the others is not. */
  readonly id?: string | undefined
  /** Sections beside the index. */
  readonly sections: readonly ShipmentSection[]
  readonly about: Pick<
    ShipmentManifest,
    'depot' | 'name' | 'part' | 'parts' | 'createdAt' | 'against' | 'roots'
  >
  readonly signal: AbortSignal
}

interface PathContent {
  readonly storePath: StorePath
  /** In hex. */
  readonly narHash: string
}

/** The manifest that lies there, undefined where there is none to be read. */
export async function readManifest(dir: string): Promise<SignedShipment | undefined> {
  const bytes = await readSmallFile(join(dir, SHIPMENT_MANIFEST_FILE), SHIPMENT_MANIFEST_MAX_BYTES)
  try {
    return bytes && parseShipment(bytes)
  } catch {
    return undefined
  }
}

/** Everything that lies there, each path behind what it refers to: what was packed in its order, then the rest. */
async function* entriesOf({
  target,
  packed,
  isRight,
  isBuiltHere,
}: SealOptions): AsyncGenerator<ShipmentEntry, void, undefined> {
  const there = new Set(await target.hashParts())
  const stack: { readonly entry: ShipmentEntry; next: number }[] = []
  const enter = async (part: HashPart): Promise<void> => {
    // Entered once: what is taken out of the set is on the stack, given out, or not whole.
    if (!there.delete(part)) return
    const entry = await target.read(part)
    if (entry !== undefined && (await isRight(entry))) stack.push({ entry, next: 0 })
  }
  async function* below(root: HashPart): AsyncGenerator<ShipmentEntry, void, undefined> {
    await enter(root)
    for (let top = stack.at(-1); top !== undefined; top = stack.at(-1)) {
      const { entry } = top
      const reference = entry.info.references[top.next++]
      if (reference !== undefined) await enter(hashPartOf(reference))
      else {
        stack.pop()
        yield { ...entry, builtHere: isBuiltHere(hashPartOf(entry.info.storePath)) }
      }
    }
  }
  for (const part of packed) yield* below(part)
  for (const part of [...there]) yield* below(part)
}

/** Writes the index files; each has its name when it is on the disk. */
async function writeIndex(
  dir: string,
  storeDir: string,
  entries: AsyncIterable<ShipmentEntry>,
): Promise<ShipmentSection[]> {
  await mkdir(join(dir, 'narwharf/index'), { recursive: true })
  const sections: ShipmentSection[] = []
  const temporary = join(dir, 'narwharf/index', `${UNFINISHED}${process.pid}-index`)
  let file: Awaited<ReturnType<typeof openFile>> | undefined
  const openFile = async () => {
    await rm(temporary, { force: true })
    return {
      handle: await open(temporary, 'wx', 0o644),
      writer: createShipmentIndexWriter(storeDir, deflate),
      hash: createHash('sha256'),
      size: 0,
    }
  }
  const put = async (to: NonNullable<typeof file>, bytes: Buffer): Promise<void> => {
    to.hash.update(bytes)
    to.size += bytes.length
    await to.handle.writeFile(bytes)
  }
  const finish = async (): Promise<void> => {
    if (file === undefined) return
    await put(file, file.writer.finish())
    await file.handle.sync()
    await file.handle.close()
    const sha256 = file.hash.digest('hex')
    const plain = shipmentIndexFile(sections.length + 1)
    const name = plain.replace(/\.blk$/, `-${sha256.slice(0, NAME_HASH_DIGITS)}.blk`)
    await rename(temporary, join(dir, name))
    sections.push({ kind: 'index', file: name, size: file.size, sha256 })
    file = undefined
  }
  let batch: ShipmentEntry[] = []
  const add = async (): Promise<void> => {
    if (batch.length === 0) return
    file ??= await openFile()
    await put(file, file.writer.add(batch))
    if (file.writer.count + ENTRIES_AT_ONCE > SHIPMENT_INDEX_ENTRIES_MAX) await finish()
    batch = []
  }
  try {
    for await (const entry of entries) {
      batch.push(entry)
      if (batch.length === ENTRIES_AT_ONCE) await add()
    }
    await add()
    await finish()
    return sections
  } finally {
    await file?.handle.close().catch(() => undefined)
    await rm(temporary, { force: true }).catch(() => undefined)
  }
}

async function syncDir(dir: string): Promise<void> {
  const handle = await open(dir, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

/** Gives the manifest its name, once it and all it names are on the disk. */
async function writeManifest(dir: string, bytes: Buffer): Promise<void> {
  const temporary = join(dir, 'narwharf', `${UNFINISHED}${process.pid}-manifest`)
  try {
    const handle = await open(temporary, 'wx', 0o644)
    try {
      await handle.writeFile(bytes)
      await handle.sync()
    } finally {
      await handle.close()
    }
    await syncDir(join(dir, 'narwharf/index'))
    await rename(temporary, join(dir, SHIPMENT_MANIFEST_FILE))
    await syncDir(join(dir, 'narwharf'))
  } finally {
    await rm(temporary, { force: true }).catch(() => undefined)
  }
}

/** The same shipment but for its date. */
const isSame = (a: ShipmentManifest, b: ShipmentManifest): boolean =>
  isDeepStrictEqual({ ...a, createdAt: '' }, { ...b, createdAt: '' })

/** Writes index and manifest of everything that lies there. A manifest that says the same already stays. Throws CACHE_UNWRITABLE. */
export async function sealShipment(options: SealOptions): Promise<ShipmentManifest> {
  const { target, sign, about, sections, signal } = options
  const { dir, storeDir } = target
  const totals = { paths: 0, narBytes: 0, fileBytes: 0 }
  const splits: ShipmentManifest['splits'][number][] = []
  const content: PathContent[] = []
  async function* counted(): AsyncGenerator<ShipmentEntry, void, undefined> {
    for await (const entry of entriesOf(options)) {
      signal.throwIfAborted()
      const { info, parts } = entry
      totals.paths++
      totals.narBytes += info.narSize
      totals.fileBytes += info.fileSize ?? 0
      if (parts !== undefined) splits.push({ url: info.url, parts })
      if (options.content === undefined) {
        const narHash = Buffer.from(info.narHash.bytes).toString('hex')
        content.push({ storePath: info.storePath, narHash })
      }
      yield entry
    }
  }
  try {
    const index = await writeIndex(dir, storeDir, counted())
    const manifest: ShipmentManifest = {
      ...about,
      id: options.id ?? shipmentIdOf({ paths: options.content ?? content, sections }),
      storeDir,
      ...totals,
      sections: [...index, ...sections],
      splits,
    }
    const bytes = formatShipment(manifest, sign)
    target.check()
    const before = await readManifest(dir)
    const stays =
      before !== undefined &&
      isSame(before.manifest, parseShipment(bytes).manifest) &&
      sign(before.signedBytes) === before.signature
    if (!stays) await writeManifest(dir, bytes)
    const named = new Set(index.map(({ file }) => basename(file)))
    for (const name of await readdir(join(dir, 'narwharf/index'))) {
      if (name.endsWith('.blk') && !named.has(name)) await rm(join(dir, 'narwharf/index', name))
    }
    return stays ? before.manifest : manifest
  } catch (error) {
    signal.throwIfAborted()
    if (isNarwharfError(error)) throw error
    return fail('CACHE_UNWRITABLE', { dir, problem: problemOf(error) }, error)
  }
}
