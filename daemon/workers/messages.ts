import type { ErrorCode, ErrorData } from '../../protocol/errors.ts'
import type { Compression } from '../../protocol/path-info.ts'

// What the main thread and a worker say to each other. Buffers travel by transfer, both ways: nothing is copied.

/** Something that gives bytes. */
export type StreamRequest =
  | { readonly kind: 'dump'; readonly root: string }
  | { readonly kind: 'dump-zstd'; readonly root: string }
  | { readonly kind: 'decompress'; readonly file: string; readonly compression: Compression }

/** Something that gives one answer. */
export type TaskRequest =
  | { readonly kind: 'digest-tree'; readonly root: string }
  | { readonly kind: 'digest-file'; readonly file: string; readonly compression: Compression }
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
      /** Chunks that may be under way at once. */
      readonly credit: number
    }
  | { readonly op: 'task'; readonly id: number; readonly request: TaskRequest }
  /** The consumer is done with a chunk: its buffer comes back, or only the permission to send another. */
  | { readonly op: 'more'; readonly id: number; readonly buffer?: ArrayBuffer | undefined }
  | { readonly op: 'stop'; readonly id: number }

export type FromWorker =
  | {
      readonly op: 'chunk'
      readonly id: number
      readonly buffer: ArrayBuffer
      readonly length: number
    }
  /** Bytes that the main thread reads by itself from an open file, which it then closes. */
  | {
      readonly op: 'segment'
      readonly id: number
      readonly fd: number
      readonly offset: number
      readonly length: number
    }
  | { readonly op: 'end'; readonly id: number; readonly result?: TaskResult | undefined }
  | { readonly op: 'error'; readonly id: number; readonly error: WireError }

export interface TaskResult {
  readonly narHash?: Uint8Array | undefined
  readonly narSize?: number | undefined
  readonly fileHash?: Uint8Array | undefined
  readonly fileSize?: number | undefined
  readonly listing?: Uint8Array | undefined
}

/** An error as it crosses threads: structured clone would make a plain Error of it. */
export interface WireError {
  readonly code?: ErrorCode | undefined
  readonly data?: ErrorData | undefined
  /** Of system errors: ENOENT, EACCES, … */
  readonly errno?: string | undefined
  readonly message: string
}
