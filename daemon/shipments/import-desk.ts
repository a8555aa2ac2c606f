import { rmSync } from 'node:fs'
import { isNarwharfError, problemOf, type ErrorData } from '../../protocol/errors.ts'
import { settle, type Settled, type Settlement } from '../holders/intake-settle.ts'
import { SpoolError, createUnpacker, type UnpackedPath } from './import-unpack.ts'

// What the thread of an import does: the bytes of the archive come in, whole paths go out, and what was judged gets its name.

/** Where the thread works. */
export interface ImportPlace {
  /** The cache's directory of NARs. */
  readonly narDir: string
  /** Begins the names of its files; this import's alone. */
  readonly prefix: string
  readonly storeDir: string
}

/** What it is asked. */
export type ToImport =
  /** The next bytes; none: no more come. */
  | { readonly op: 'read'; readonly bytes: Uint8Array | undefined }
  | { readonly op: 'settle'; readonly settlement: Settlement }
  | { readonly op: 'drop'; readonly files: readonly string[] }
  /** Removes what it has begun. */
  | { readonly op: 'close' }

/** Why no more can be read. */
export interface ReadProblem {
  /** `archive`: EXPORT_INVALID with these facts. `disk`: the cache cannot be written. */
  readonly about: 'archive' | 'disk' | 'itself'
  readonly problem: string
  readonly data?: ErrorData | undefined
}

/** What came of a `read`: paths before the problem are whole. */
export interface ReadReply {
  /** The buffer that was handed over, back for other bytes. */
  readonly buffer?: ArrayBuffer | undefined
  readonly paths: readonly UnpackedPath[]
  readonly problem?: ReadProblem | undefined
}

export type FromImport = ReadReply | Settled | undefined

function describe(error: unknown): ReadProblem {
  const problem = problemOf(error)
  if (error instanceof SpoolError) return { about: 'disk', problem }
  return isNarwharfError(error, 'EXPORT_INVALID')
    ? { about: 'archive', problem, data: error.data }
    : { about: 'itself', problem }
}

/** Makes the function that answers, one question after the other. It blocks while it reads and writes. */
export function createImportDesk({ narDir, prefix, storeDir }: ImportPlace) {
  const unpacker = createUnpacker(narDir, prefix, storeDir)
  const read = (bytes: Uint8Array | undefined): ReadReply => {
    const buffer = bytes?.buffer as ArrayBuffer | undefined
    try {
      if (bytes === undefined) unpacker.end()
      else unpacker.write(bytes)
      return { paths: unpacker.take(), buffer }
    } catch (error) {
      const paths = unpacker.take()
      // Room for the narinfos of what came before it.
      unpacker.close()
      return { paths, problem: describe(error), buffer }
    }
  }
  return (message: ToImport): FromImport => {
    switch (message.op) {
      case 'read':
        return read(message.bytes)
      case 'settle':
        return settle(message.settlement)
      case 'drop':
        for (const file of message.files) rmSync(file, { force: true })
        return undefined
      case 'close':
        unpacker.close()
        return undefined
    }
  }
}
