/** Every wait of gossip, in milliseconds: options, so that tests neither sleep nor wait. */
export interface Timings {
  /** How often a connection is asked whether it lives. */
  readonly pingMs: number
  /** Silence after which it is dead: UDX alone takes 15 to 18 s to notice. */
  readonly deadMs: number
  /** A connection without a hello by then is no host of ours. */
  readonly helloMs: number
  /** How long changes of heads are gathered before they are told to the peers. */
  readonly headsMs: number
  /** The same for heads of others: their own hosts tell most peers first. */
  readonly relayMs: number
  /** How long a part of a note that was asked for may take. */
  readonly noteMs: number
  /** How often to look for an address or a free port at start. */
  readonly addressMs: number
  /** Waits between two tries to reach a host: hyperswarm's own end at ten minutes. */
  readonly backoffsMs: readonly number[]
  /** After an unclean stop: how long to wait for a peer that knows our log before a new one is begun. */
  readonly witnessMs: number
  /** Before something that failed for a reason outside (a full disk) is tried again. */
  readonly retryMs: number
  /** How long what is remembered about peers may stay unwritten. */
  readonly saveMs: number
}

export const TIMINGS: Timings = {
  pingMs: 2_000,
  deadMs: 6_000,
  helloMs: 10_000,
  headsMs: 20,
  relayMs: 1_500,
  noteMs: 10_000,
  addressMs: 3_000,
  backoffsMs: [1_000, 3_000, 5_000, 15_000],
  witnessMs: 10_000,
  retryMs: 5_000,
  saveMs: 5_000,
}
