// What a member's log may be at most. Numbers from docs: a million paths are some 2,000 blocks and 88 MB.

/** Bytes of one log: ten million paths with signatures. */
export const LOG_LIMIT_BYTES = 2 ** 31

/** Blocks of one log: the same host's compaction keeps it some thousand above its paths / 500. */
export const LOG_LIMIT_BLOCKS = 200_000

/** Blocks asked for and applied together: a few megabytes of usual blocks, and the most that a hostile log holds in memory. */
export const WINDOW_BLOCKS = 32

/** Bytes applied in one transaction. */
export const BATCH_BYTES = 8 * 1024 * 1024

/** When a log is written anew: this part of its entries is removed ... */
export const REMOVED_SHARE = 0.3
/** ... but not for a handful ... */
export const REMOVED_LEAST = 1_000
/** ... or this many blocks more than its paths need: each costs a peer 80 µs and 70 bytes, whatever is in it. */
export const SMALL_BLOCKS = 2_000
