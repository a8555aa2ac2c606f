// What narwharf uses of hypercore 11.37, which ships no types.
declare module 'hypercore' {
  import type { EventEmitter } from 'node:events'

  interface CoreEvents {
    append: []
    download: [index: number, bytes: number]
    close: []
    /** Somebody has another history of the same length, signed by the same key: the core is dead. */
    conflict: [length: number, fork: number]
    'peer-add': []
    'verification-error': [Error, unknown, unknown, CorePeer]
  }

  export interface CorePeer {
    readonly remotePublicKey: Buffer
    readonly remoteLength: number
  }

  export interface CoreDownload {
    /** Resolves to false when it was cancelled. */
    done(): Promise<boolean>
    destroy(): void
  }

  export default class Hypercore extends EventEmitter<CoreEvents> {
    static discoveryKey(key: Buffer): Buffer
    readonly key: Buffer | null
    readonly discoveryKey: Buffer | null
    readonly length: number
    readonly byteLength: number
    readonly fork: number
    readonly writable: boolean
    readonly opened: boolean
    readonly closing: Promise<void> | null
    readonly closed: boolean
    readonly peers: readonly CorePeer[]
    ready(): Promise<void>
    append(blocks: readonly Buffer[]): Promise<{ readonly length: number }>
    get(
      index: number,
      options?: { readonly wait?: boolean; readonly timeout?: number },
    ): Promise<Buffer | null>
    has(start: number, end?: number): Promise<boolean>
    update(options?: { readonly wait?: boolean; readonly force?: boolean }): Promise<boolean>
    download(range: { readonly start: number; readonly end: number }): CoreDownload
    /** Drops blocks of this copy only. */
    clear(start: number, end: number): Promise<void>
    close(): Promise<void>
  }
}
