import type { PeerAddress, PeerKey } from '../site.ts'

/** How bytes reach a host that may not know this one yet; peering brings it. */
export interface PairingTransport {
  /**
   * Opens a fresh Noise connection to that address, makes sure that `remoteKey` answers there, sends the request that
   * `makeRequest` makes from the hash of the handshake, and resolves to the reply. Rejects where nobody answers in time,
   * somebody else does, or the reply is longer than PAIRING_REPLY_MAX_BYTES.
   */
  exchange(
    address: PeerAddress,
    remoteKey: PeerKey,
    makeRequest: (handshakeHash: Buffer) => Buffer,
  ): Promise<Buffer>
}
