/** Bytes of one chunk from a worker: below it the messages count, above it memory does. */
export const CHUNK_BYTES = 256 * 1024

/** Buffers of one stream at its worker, filled or being filled; a small NAR needs one, and starts with it. */
export const STREAM_CREDIT = 3

/**
 * Reads of one file under way at once in libuv's threads, of which the whole process has four: with one the socket waits.
 * Two and three were never measured side by side on a quiet machine.
 */
export const READS_UNDER_WAY = 2

/** Files from this size on are read by libuv's threads straight for the socket instead of passing through a worker. */
export const SEGMENT_BYTES = 1024 * 1024

/** Idle chunk buffers that are kept (8 MiB): what the next streams begin with. */
export const IDLE_BUFFERS = 32
