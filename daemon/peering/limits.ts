import { PAIRING_REPLY_MAX_BYTES } from '../../protocol/pairing.ts'

// What a peer, a stranger or a broken link may cost this host, in one place.

/** All limits of a peering, with their defaults below; tests pass smaller ones. */
export interface PeeringLimits {
  /** From the TCP connection to the end of the Noise handshake, ms. */
  readonly handshakeMs: number
  /** Handshakes under way at once: strangers can hold no more than these. */
  readonly handshakes: number
  /** Connections at once from one address, and in total. */
  readonly perAddress: number
  readonly connections: number
  /** From the first byte of a request to the end of its headers, ms. */
  readonly headersMs: number
  /** A connection over which nothing moves for so long is closed, ms. */
  readonly idleMs: number
  /** How long a stranger may take to pair, and how many may try within a minute: from one address, and in all. */
  readonly strangerMs: number
  readonly strangersPerMinute: number
  readonly strangersPerMinuteAll: number
  /** The client's: one address is given up after so long, ms. */
  readonly connectMs: number
  /** No answer, or no byte of its body, for so long, ms. */
  readonly stallMs: number
  /** Sockets of one peer at once; further requests wait. */
  readonly socketsPerPeer: number
}

export const PEERING_LIMITS: PeeringLimits = {
  // A LAN needs 5 ms, a satellite link 1.8 s.
  handshakeMs: 5_000,
  handshakes: 64,
  // Behind one address may be several hosts (a router that hides them), each with its 8 sockets.
  perAddress: 64,
  connections: 512,
  headersMs: 10_000,
  idleMs: 120_000,
  strangerMs: 15_000,
  strangersPerMinute: 10,
  strangersPerMinuteAll: 60,
  // The figure for a peer that is off: the next address or holder is tried then.
  connectMs: 1_500,
  stallMs: 10_000,
  socketsPerPeer: 6,
}

/** Largest frame that is read before the handshake is done: the messages of IK have some 100 bytes. */
export const HANDSHAKE_FRAME_MAX_BYTES = 1024

/** Largest frame that is read from a member: what it says it sends is allocated at once. Ours are four times smaller. */
export const FRAME_MAX_BYTES = 1024 * 1024

/** Headers of a request or a reply. */
export const HEADERS_MAX_BYTES = 8 * 1024

/** Body of a pairing request: a few keys, a name and a proof. */
export const PAIR_REQUEST_MAX_BYTES = 4 * 1024

/** The answer to a pairing request: a member list of thousands of hosts. */
export const PAIR_REPLY_MAX_BYTES = PAIRING_REPLY_MAX_BYTES
