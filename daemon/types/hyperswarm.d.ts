// What narwharf uses of hyperswarm 4.17, which ships no types.
declare module 'hyperswarm' {
  import type { EventEmitter } from 'node:events'
  import type { Duplex } from 'node:stream'
  import type HyperDHT from 'hyperdht'

  /** A Noise secret-stream over UDX; a streamx Duplex, which Node's type describes well enough. */
  export interface SwarmConnection extends Duplex {
    readonly remotePublicKey: Buffer
    readonly isInitiator: boolean
    readonly rawStream: { readonly remoteHost: string | null; readonly remotePort: number } | null
    /** Resolves to false when it never opened. */
    readonly opened: Promise<boolean>
  }

  export interface PeerInfo {
    readonly publicKey: Buffer
    readonly banned: boolean
    ban(banned: boolean): void
  }

  interface SwarmEvents {
    connection: [SwarmConnection, PeerInfo]
    /** A key was refused by the firewall: it would be for ever, see PeerInfo.ban. */
    ban: [PeerInfo, Error]
    update: []
  }

  interface SwarmOptions {
    readonly dht: HyperDHT
    readonly keyPair: { readonly publicKey: Buffer; readonly secretKey: Buffer }
    /** True refuses. Asked inside the handshake, before anything is said. */
    readonly firewall: (remotePublicKey: Buffer) => boolean
    readonly maxPeers?: number
    readonly maxParallel?: number
    readonly backoffs?: readonly number[]
    readonly jitter?: number
  }

  export default class Hyperswarm extends EventEmitter<SwarmEvents> {
    constructor(options: SwarmOptions)
    readonly dht: HyperDHT
    readonly connections: ReadonlySet<SwarmConnection>
    readonly peers: ReadonlyMap<string, PeerInfo>
    readonly destroyed: boolean
    listen(): Promise<void>
    joinPeer(publicKey: Buffer): void
    leavePeer(publicKey: Buffer): void
    destroy(options?: { readonly force?: boolean }): Promise<void>
  }
}
