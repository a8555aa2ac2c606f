// The archive of `nix-store --export`: paths one behind the other, each as its NAR and then what it is.
//
//   archive  = { u64(1) path } u64(0)
//   path     = nar u64(0x4558494e) str(<store path>) refs str(<deriver's store path, or nothing>) legacy
//   refs     = u64(count) { str(<store path>) }
//   legacy   = u64(0) | u64(1) str(<a signature of before 2006, which nobody reads>)
//   nar      as in nar/wire.ts; u64 is little endian; str as there
//
// The path is told behind its NAR, so whoever keeps NARs must do so before they know what they are. The format has no NAR
// hash, no signature and no content address (see export-signatures.ts), and nothing that says how long it is.
// Stricter than Nix, which takes any number but 1 for the end of a path and leaves what stands behind the archive
// unread. Left to others: hashes, and whether the references are there.
//
// Source: NixOS/nix src/libstore/export-import.cc.
import { fail, isNarwharfError, problemOf } from './errors.ts'
import { createNarReader, type NarHandler } from './nar/reader.ts'
import { ALIGNMENT, encodeStrings, paddingOf, sizeOfString } from './nar/wire.ts'
import { REFERENCES_MAX } from './narinfo.ts'
import type { PathInfo } from './path-info.ts'
import {
  DEFAULT_STORE_DIR,
  NAME_MAX_LENGTH,
  HASH_PART_LENGTH,
  STORE_DIR_MAX_LENGTH,
  baseNameOf,
  joinStorePath,
  parseStorePath,
  storeDirOf,
  type BaseName,
  type StorePath,
} from './store-path.ts'

/** `NIXE`, the bytes behind every NAR. */
const MAGIC = 0x4558494e

/** Bytes of the longest store path: directory, slash, hash part, dash, name. */
const PATH_MAX_BYTES = STORE_DIR_MAX_LENGTH + 1 + HASH_PART_LENGTH + 1 + NAME_MAX_LENGTH

/** Bytes of a legacy signature: those were RSA signatures in text, of some hundred. */
export const LEGACY_SIGNATURE_MAX_BYTES = 4096

/** What an archive says of a path, behind its NAR: all of it hearsay. */
export interface ExportedPath {
  readonly storePath: StorePath
  /** Base names, sorted by bytes, without doubles; a self reference is among them. */
  readonly references: readonly BaseName[]
  readonly deriver?: BaseName | undefined
  /** Bytes of its NAR. */
  readonly narSize: number
}

/** What a reader tells, in the archive's order. What a method throws goes out of `write` and ends the reading. */
export interface ExportHandler {
  /** The next bytes of a NAR, of which all up to here is well-formed: a view that is valid as long as the chunk is. */
  nar(bytes: Buffer): void
  /** The NAR whose bytes came is complete, and this is what it is said to be. */
  path(path: ExportedPath): void
}

/** Takes an archive in pieces of any size. After an error every call throws that error again. */
export interface ExportReader {
  /** Reads on. Throws EXPORT_INVALID at the first byte that no archive could have there. */
  write(chunk: Uint8Array): void
  /** Says that no more comes. Throws EXPORT_INVALID unless the archive is complete. */
  end(): void
}

export interface ExportReaderOptions {
  /** Paths of another store directory are refused. */
  readonly storeDir?: string | undefined
  /** Sees the NARs' structure too; its errors end the reading like the handler's. */
  readonly narHandler?: NarHandler | undefined
}

/** What is read next. */
type State =
  | 'path or end'
  | 'NAR'
  | 'magic'
  | 'store path'
  | 'reference count'
  | 'reference'
  | 'deriver'
  | 'legacy flag'
  | 'legacy signature'
  | 'done'

/** The most bytes that a string may have, by the state that reads one. */
const STRING_LIMITS: Readonly<Partial<Record<State, number>>> = {
  'store path': PATH_MAX_BYTES,
  reference: PATH_MAX_BYTES,
  deriver: PATH_MAX_BYTES,
  'legacy signature': LEGACY_SIGNATURE_MAX_BYTES,
}

/** The longest item but a NAR. */
const HELD_BYTES = sizeOfString(LEGACY_SIGNATURE_MAX_BYTES)

/** What is known of the path being read. */
interface Draft {
  storePath: StorePath | undefined
  readonly references: BaseName[]
  deriver: BaseName | undefined
  narSize: number
}

/**
 * A strict reader: everything but the NARs' contents is checked, with a limit on each string and count. It keeps one string
 * and the references of one path, whatever the archive's size, and passes NARs on without copying them.
 */
export function createExportReader(
  handler: ExportHandler,
  { storeDir = DEFAULT_STORE_DIR, narHandler = {} }: ExportReaderOptions = {},
): ExportReader {
  let state: State = 'path or end'
  /** Bytes of the archive before the item being read. */
  let offset = 0
  let nar = createNarReader(narHandler)
  let draft: Draft = { storePath: undefined, references: [], deriver: undefined, narSize: 0 }
  let referencesLeft = 0
  let poison: { readonly error: unknown } | undefined

  /** An item that came in more than one piece. */
  const held = Buffer.alloc(HELD_BYTES)
  let heldLength = 0

  const refuse = (problem: string, at = offset): never =>
    fail('EXPORT_INVALID', { problem, offset: at })

  const readNumber = (data: Buffer, at: number): number => {
    const number = data.readBigUInt64LE(at)
    return number <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(number) : Infinity
  }

  const readPath = (text: string): StorePath => {
    try {
      return parseStorePath(text, storeDir)
    } catch (error) {
      return fail('EXPORT_INVALID', { problem: problemOf(error), offset }, error)
    }
  }

  const finishPath = (): void => {
    const { storePath, references, deriver, narSize } = draft
    state = 'path or end'
    // Nix writes them sorted by whole path, which is by base name as all are below one directory.
    handler.path({
      storePath: storePath as StorePath,
      references: [...new Set(references)].sort(),
      deriver,
      narSize,
    })
  }

  const takeNumber = (number: number): void => {
    switch (state) {
      case 'path or end':
        if (number > 1) refuse('neither a path nor the end begins here')
        state = number === 1 ? 'NAR' : 'done'
        nar = createNarReader(narHandler)
        draft = { storePath: undefined, references: [], deriver: undefined, narSize: 0 }
        return
      case 'magic':
        if (number !== MAGIC) refuse('what stands behind a NAR is no end of one')
        state = 'store path'
        return
      case 'reference count':
        if (number > REFERENCES_MAX) refuse(`a path has more than ${REFERENCES_MAX} references`)
        referencesLeft = number
        state = number > 0 ? 'reference' : 'deriver'
        return
      default:
        if (number > 1) refuse('the mark of an old signature is neither 0 nor 1')
        if (number === 1) state = 'legacy signature'
        else finishPath()
    }
  }

  const takeString = (text: string): void => {
    switch (state) {
      case 'store path':
        draft.storePath = readPath(text)
        state = 'reference count'
        return
      case 'reference':
        draft.references.push(baseNameOf(readPath(text)))
        if (--referencesLeft === 0) state = 'deriver'
        return
      case 'deriver':
        if (text !== '') draft.deriver = baseNameOf(readPath(text))
        state = 'legacy flag'
        return
      default:
        finishPath()
    }
  }

  /** Bytes of the item that is read next, as far as `available` of them at `at` tell. */
  const wantedBytes = (data: Buffer, at: number, available: number): number => {
    const limit = STRING_LIMITS[state]
    if (limit === undefined || available < ALIGNMENT) return ALIGNMENT
    const length = readNumber(data, at)
    if (length > limit) refuse(`a string is longer than the ${limit} bytes that it may have here`)
    return sizeOfString(length)
  }

  /** Takes one whole item. */
  const take = (data: Buffer, at: number, size: number): void => {
    if (STRING_LIMITS[state] === undefined) {
      takeNumber(readNumber(data, at))
    } else {
      const length = readNumber(data, at)
      const start = at + ALIGNMENT
      for (let index = start + length; index < start + length + paddingOf(length); index++) {
        if (data[index] !== 0) refuse('padding is not zero')
      }
      takeString(data.toString('latin1', start, start + length))
    }
    offset += size
  }

  const takeNar = (data: Buffer, at: number): number => {
    let taken: number
    try {
      taken = nar.writePart(data.subarray(at))
    } catch (error) {
      if (!isNarwharfError(error, 'NAR_INVALID')) throw error
      const { problem, offset: within } = error.data
      const start = offset - draft.narSize
      return fail('EXPORT_INVALID', { problem, offset: start + Number(within) }, error)
    }
    draft.narSize += taken
    offset += taken
    // A part of which the last string is not whole is still well-formed so far.
    if (taken > 0) handler.nar(data.subarray(at, at + taken))
    if (nar.isComplete()) state = 'magic'
    return taken
  }

  const read = (data: Buffer): void => {
    let at = 0
    while (at < data.length) {
      if (state === 'NAR') {
        at += takeNar(data, at)
        continue
      }
      if (state === 'done') refuse('bytes follow the end')
      const available = data.length - at
      if (heldLength === 0) {
        const size = wantedBytes(data, at, available)
        if (size <= available) {
          take(data, at, size)
          at += size
          continue
        }
      }
      const length = Math.min(wantedBytes(held, 0, heldLength) - heldLength, available)
      data.copy(held, heldLength, at, at + length)
      heldLength += length
      at += length
      if (heldLength === wantedBytes(held, 0, heldLength)) {
        take(held, 0, heldLength)
        heldLength = 0
      }
    }
  }

  const guarded = (action: () => void): void => {
    if (poison !== undefined) throw poison.error
    try {
      action()
    } catch (error) {
      poison = { error }
      throw error
    }
  }

  return {
    write(chunk) {
      guarded(() => read(Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength)))
    },
    end() {
      guarded(() => {
        if (state !== 'done') refuse('it ends early', offset + heldLength)
      })
    },
  }
}

const u64 = (value: number): Buffer => {
  const bytes = Buffer.alloc(ALIGNMENT)
  bytes.writeBigUInt64LE(BigInt(value))
  return bytes
}

/** What stands before a path's NAR. */
export const EXPORT_PATH_BEGIN: Readonly<Buffer> = u64(1)

/** What stands behind the last path. */
export const EXPORT_END: Readonly<Buffer> = u64(0)

/** What stands behind a path's NAR. */
export function encodeExportedPath(
  info: Pick<PathInfo, 'storePath' | 'references' | 'deriver'>,
): Buffer {
  const { storePath, references, deriver } = info
  const storeDir = storeDirOf(storePath)
  const whole = (name: BaseName): string => joinStorePath(storeDir, name)
  return Buffer.concat([
    u64(MAGIC),
    encodeStrings(storePath),
    u64(references.length),
    encodeStrings(...references.map(whole)),
    encodeStrings(deriver === undefined ? '' : whole(deriver)),
    u64(0),
  ])
}
