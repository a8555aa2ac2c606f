// What narwharf uses of protomux, which ships no types.
declare module 'protomux' {
  import type { SwarmConnection } from 'hyperswarm'

  /** compact-encoding's shape of an encoding. */
  export interface EncodingState {
    start: number
    end: number
    buffer: Buffer
  }

  export interface Encoding<T> {
    preencode(state: EncodingState, value: T): void
    encode(state: EncodingState, value: T): void
    decode(state: EncodingState): T
  }

  export interface MuxMessage<T> {
    /** False when the stream below is full. */
    send(value: T): boolean
  }

  export interface MuxChannel {
    readonly opened: boolean
    readonly closed: boolean
    /** False while the other end reads slower than is written. */
    readonly drained: boolean
    open(): void
    close(): void
    addMessage<T>(options: {
      readonly encoding: Encoding<T>
      readonly onmessage: (value: T) => void
    }): MuxMessage<T>
  }

  export default class Protomux {
    static from(stream: SwarmConnection): Protomux
    /** Null when a channel of that protocol is open already. */
    createChannel(options: {
      readonly protocol: string
      readonly onopen?: () => void
      readonly onclose?: (isRemote: boolean) => void
      /** What was written has gone out. */
      readonly ondrain?: () => void
    }): MuxChannel | null
  }
}
