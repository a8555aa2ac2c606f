/** Bytes of one chunk from a worker: below it the messages count, above it memory does (docs/performance.md). */
export const CHUNK_BYTES = 256 * 1024

/** Chunks of one stream that may be under way between a worker and the socket. */
export const STREAM_CREDIT = 4

/** Files from this size on are read by libuv's threads straight for the socket instead of passing through a worker. */
export const SEGMENT_BYTES = 1024 * 1024

/** NAR bytes in one zstd frame made on the fly: frames are independent, so a resumed transfer gets the same bytes. */
export const ZSTD_SLICE_BYTES = 1024 * 1024
