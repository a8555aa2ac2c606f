// What narwharf uses of hyperdht 6.34, which ships no types.
declare module 'hyperdht' {
  import type { EventEmitter } from 'node:events'
  import type { SwarmConnection } from 'hyperswarm'

  interface DhtAddress {
    readonly host: string
    readonly port: number
  }

  interface ConnectOptions {
    readonly keyPair?: { readonly publicKey: Buffer; readonly secretKey: Buffer }
    /** Sockets to try first: that of the peer itself will do, its router answers for it. */
    readonly relayAddresses?: readonly DhtAddress[] | null
  }

  export default class HyperDHT extends EventEmitter {
    /** A node that answers by itself, knows nobody and asks nobody; binds 0.0.0.0, `host` is only what it says it is. */
    static bootstrapper(
      port: number,
      host: string,
      options?: { readonly connectionKeepAlive?: number },
    ): HyperDHT
    readonly destroyed: boolean
    /** Binds the port now; rejects with EADDRINUSE when it is taken. */
    bind(): Promise<void>
    addNode(address: DhtAddress): void
    connect(publicKey: Buffer, options?: ConnectOptions): SwarmConnection
    destroy(options?: { readonly force?: boolean }): Promise<void>
  }
}
