import {
  NarwharfError,
  isNarwharfError,
  problemOf,
  type ErrorCode,
  type ErrorData,
} from '../../protocol/errors.ts'
import type { Compression } from '../../protocol/path-info.ts'
import type { FileSegment } from './pull-source.ts'

// What the main thread and a worker say to each other. Buffers travel by transfer, both ways: nothing is copied.

/** A NAR file; `growth` where it is still being written. */
interface NarFile {
  readonly file: string
  readonly compression: Compression
  readonly growth?: SharedArrayBuffer | undefined
}

/** Something that gives bytes. */
export type StreamRequest =
  | { readonly kind: 'dump'; readonly root: string }
  | { readonly kind: 'dump-zstd'; readonly root: string }
  | ({ readonly kind: 'decompress' } & NarFile)

/** Something that gives one answer. */
export type TaskRequest =
  | { readonly kind: 'digest-tree'; readonly root: string }
  | ({ readonly kind: 'digest-file'; readonly narSizeMax?: number | undefined } & NarFile)
  | { readonly kind: 'list-tree'; readonly root: string }
  | { readonly kind: 'list-file'; readonly file: string; readonly compression: Compression }

export type ToWorker =
  | {
      readonly op: 'stream'
      readonly id: number
      readonly request: StreamRequest
      readonly offset: number
      /** Exclusive; Infinity for the end. */
      readonly end: number
      /** Where the first chunks go; no more come before more buffers do. */
      readonly buffers: readonly ArrayBuffer[]
    }
  | { readonly op: 'task'; readonly id: number; readonly request: TaskRequest }
  | { readonly op: 'buffers'; readonly id: number; readonly buffers: readonly ArrayBuffer[] }
  | { readonly op: 'stop'; readonly id: number }

/** The last message about an id gives the buffers back that were not used. */
interface Last {
  readonly id: number
  readonly unused: readonly ArrayBuffer[]
}

export type FromWorker =
  | {
      readonly op: 'chunk'
      readonly id: number
      readonly buffer: ArrayBuffer
      readonly length: number
    }
  /** Bytes that the main thread reads by itself. */
  | { readonly op: 'segment'; readonly id: number; readonly segment: FileSegment }
  /** The end, of a stream with its last chunk if there is one: a small NAR is one message. */
  | (Last & { readonly op: 'end'; readonly buffer?: ArrayBuffer; readonly length?: number })
  | { readonly op: 'result'; readonly id: number; readonly result: TaskResult }
  | (Last & { readonly op: 'error'; readonly error: WireError })
  | (Last & { readonly op: 'stopped' })

interface TreeDigest {
  readonly narHash: Uint8Array
  readonly narSize: number
}

interface Listing {
  readonly listing: Uint8Array
}

/** What each kind of task answers. */
export interface TaskResults {
  readonly 'digest-tree': TreeDigest
  readonly 'digest-file': TreeDigest & { readonly fileHash: Uint8Array; readonly fileSize: number }
  readonly 'list-tree': Listing
  readonly 'list-file': Listing
}

export type TaskResult = TaskResults[keyof TaskResults]

/** An error as it crosses threads: structured clone would make a plain Error of it. */
export type WireError =
  { readonly code: ErrorCode; readonly data: ErrorData } | { readonly message: string }

/** Packs an error for the way. */
export const packError = (error: unknown): WireError =>
  isNarwharfError(error)
    ? { code: error.code, data: error.data }
    : { message: error instanceof Error ? (error.stack ?? error.message) : problemOf(error) }

/** The error as it was in the other thread; one that is not narwharf's own means a broken worker. */
export const reviveError = (error: WireError): Error =>
  'code' in error
    ? new NarwharfError(error.code, error.data)
    : new NarwharfError('NAR_WORKER_LOST', { problem: error.message })
