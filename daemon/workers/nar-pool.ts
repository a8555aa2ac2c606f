import type { Compression } from '../../protocol/path-info.ts'
import type { ByteRange, ByteStream } from './byte-stream.ts'

/** What a strict read of a whole NAR found out. */
export interface NarDigest {
  /** SHA-256 of the uncompressed NAR. */
  readonly narHash: Buffer
  readonly narSize: number
}

/** The same for a NAR file, with the file's own hash and size. */
export interface NarFileDigest extends NarDigest {
  readonly fileHash: Buffer
  readonly fileSize: number
}

/** What is known of a NAR file before it is read. */
export interface DigestOptions {
  /** For a file still being written: the check is done when its last byte is there. */
  readonly growth?: SharedArrayBuffer | undefined
  /** Bytes of the NAR; what unpacks to more is NAR_INVALID as soon as it does. */
  readonly narSizeMax?: number | undefined
}

/**
 * Worker threads that make, read and check NARs, so that the main thread's event loop only moves finished buffers
 * (a synchronous reader there starves narinfo requests for seconds). `root` and `file` are file system paths.
 */
export interface NarPool {
  open(): Promise<void>
  close(): Promise<void>
  /** NAR of the tree at `root`, byte-identical to `nix-store --dump`; a range is reached by walking sizes, not by reading. */
  dump(root: string, range?: ByteRange): ByteStream
  /** The same NAR as zstd level-1 frames, one per fixed slice of NAR, so that the bytes are the same on every call and an offset can be resumed. */
  dumpZstd(root: string, range?: ByteRange): ByteStream
  /** Uncompressed bytes of a file; a range counts uncompressed bytes. `growth`: of a file still being written. */
  decompress(
    file: string,
    compression: Compression,
    range?: ByteRange,
    growth?: SharedArrayBuffer,
  ): ByteStream
  /** Reads a tree as NAR and hashes it. */
  digestTree(root: string, signal?: AbortSignal): Promise<NarDigest>
  /** Decompresses, parses strictly and hashes a NAR file. Rejects with NAR_INVALID or COMPRESSED_DATA_INVALID. */
  digestFile(
    file: string,
    compression: Compression,
    signal?: AbortSignal,
    options?: DigestOptions,
  ): Promise<NarFileDigest>
  /** `.ls` JSON (version 1, with narOffset) of a tree or a NAR file. */
  listTree(root: string): Promise<Buffer>
  listFile(file: string, compression: Compression): Promise<Buffer>
}
