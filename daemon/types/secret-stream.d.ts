// What narwharf uses of @hyperswarm/secret-stream 6.9.2, which ships no types.

declare module '@hyperswarm/secret-stream' {
  import type { Duplex } from 'node:stream'

  interface KeyPair {
    readonly publicKey: Buffer
    readonly secretKey: Buffer
  }

  interface NoiseOptions {
    /** IK: the initiator knows whom it calls, and the responder says nothing to who does not. */
    readonly pattern?: 'IK' | 'XX'
    readonly keyPair?: KeyPair
    /** Needed by the initiator of IK. */
    readonly remotePublicKey?: Buffer
  }

  /** A streamx duplex whose bytes travel encrypted over another one. Each write is one frame of at most 2^24 - 1 bytes. */
  export default class NoiseSecretStream {
    constructor(isInitiator: boolean, rawStream: Duplex, options?: NoiseOptions)
    static keyPair(seed?: Buffer): KeyPair
    readonly rawStream: Duplex
    /** Null before the handshake. */
    readonly remotePublicKey: Buffer | null
    readonly handshakeHash: Buffer | null
    readonly connected: boolean
    readonly destroyed: boolean
    /** False when the stream ended before the handshake was done. */
    readonly opened: Promise<boolean>
    /** A buffer whose frame is encrypted in place when it is the next to be written. */
    alloc(length: number): Buffer
    write(data: Buffer): boolean
    end(): void
    pause(): void
    resume(): void
    destroy(error?: Error | null): void
    on(event: 'data', listener: (data: Buffer) => void): this
    on(event: 'error', listener: (error: Error) => void): this
    on(event: 'connect' | 'end' | 'close' | 'drain', listener: () => void): this
  }
}
