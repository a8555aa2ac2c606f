import type { Hash } from '../../protocol/hash.ts'
import type { Compression, PathInfo } from '../../protocol/path-info.ts'
import type { BaseName, HashPart, StorePath } from '../../protocol/store-path.ts'
import type { ByteRange, ByteStream } from '../workers/byte-stream.ts'

/** What a holder is: a live Nix store, a cache directory; later a drive, a peer, an upstream cache. */
export type HolderKind = 'nix-store' | 'cache-dir' | 'drive' | 'peer' | 'upstream'

/**
 * The fact that a holder has a path, as it was when asked: a value, valid until {@link Holder.isCurrent} says no.
 */
export interface Holding {
  readonly info: PathInfo
  /**
   * Changes whenever the bytes behind the holding may have: registration id and root inode of a live path;
   * device, inode, size, mtime and ctime of narinfo and NAR file of a cache directory. Two holdings with one identity have the
   * same bytes, so a verification of one stands for the other. Opaque, under 200 characters.
   */
  readonly identity: string
  /** True where the host itself built the path (Nix's `ultimate`): its word is enough, no signature needed. */
  readonly builtHere: boolean
  /** How the NAR lies there: a live store's is made on the fly and 'none'. */
  readonly compression: Compression
  /** Bytes of the NAR file as it lies there; undefined for a live store. */
  readonly fileSize?: number | undefined
  /** Hash of the NAR file as it lies there, as its narinfo claims; undefined for a live store. */
  readonly fileHash?: Hash | undefined
}

/** A cheap sign of what stands behind a hash part. */
export interface Witness {
  /** While this text is equal, over any time and restarts, `find` gives an equal holding. Opaque, under 200 characters. */
  readonly mark: string
  /** Whether it is still so, in a few microseconds. */
  stillStands(): boolean
}

/** What a full read of a holding's NAR found. */
export interface Verification {
  /** Undefined when the NAR is what the path info says: strict grammar, size and SHA-256. */
  readonly problem?: Error | undefined
}

/** A path that is held, with the bytes of its NAR where telling them costs nothing. */
export interface HeldPath {
  readonly storePath: StorePath
  readonly narSize?: number | undefined
}

/** What came and went at a holder: a small step of it. */
export interface HolderChange {
  /** New, or there before under the same path with another path info. */
  readonly added: readonly HeldPath[]
  /** No path with that hash part is held any more. */
  readonly removed: readonly HashPart[]
}

/** Follows what a holder has, for one listener, in memory (20 bytes a path) from a walk over everything on. */
export interface HolderFollower {
  /**
   * Every path held, in steps like {@link Holder.paths}, and remembered: `changes` tells what differs from it. Begins anew at
   * each call; a walk left early leaves nothing to go on from. Throws like `paths` does.
   */
  all(): AsyncIterable<readonly HeldPath[]>
  /**
   * What came and went since it was asked last; undefined where nothing did, which costs microseconds: it is asked ten
   * times a second. What came is told at once, also while `all` still walks; what went after a rest that keeps the cost of
   * looking for it below a third of the time. The steps must be read to their end before it is asked again.
   * 'lost': nothing is known to go on from (another database, a rollback, no walk yet), so `all` must walk again.
   */
  changes(): AsyncIterable<HolderChange> | 'lost' | undefined
}

/** A listing, log or debug file: small text or bytes held in memory. */
export type SmallFile = Buffer

/** A NAR that came from afar and is still here. */
export interface KeptNar {
  readonly compression: Compression
  /** Undefined where the file is not what it should be, though the NAR is. */
  readonly fileHash: Hash | undefined
  readonly fileSize: number | undefined
  /** Gives its file a second name, which stands from then on by itself; false where it has no file, or on another disk. */
  link(to: string): Promise<boolean>
}

/**
 * Anything that can give a path's NAR. Few verbs, one contract, one conformance suite (test/daemon/holders/conformance.ts).
 *
 * - Every verb tells what is there *now*: a path that appeared or vanished a moment ago is seen.
 * - What is malformed or unreadable is absent: verbs return undefined (and say so once in `problem` events), they do not throw for
 *   hostile content. They throw NarwharfError HOLDER_UNREADABLE only when the whole holder is out of reach.
 * - Nothing here decides trust.
 */
export interface Holder {
  /** Stable over restarts: `nix-store:/nix/store`, `cache-dir:/var/lib/narwharf/cache`. */
  readonly id: string
  readonly kind: HolderKind
  /** What people call it, where the id says nothing to them. */
  readonly title?: string | undefined
  /** The store directory its paths are below; other store directories are not offered. */
  readonly storeDir: string
  /**
   * Its bytes come from outside and anew each time: that they were right once says nothing of the next time, and that they
   * were wrong is remembered for a while only.
   */
  readonly fleeting?: true | undefined
  /** Never rejects because there is nothing to read yet: the holder is then down, and comes up by itself. */
  open(): Promise<void>
  close(): Promise<void>
  /** Why the whole holder is out of reach just now, asked anew (cheap); undefined while it is up. */
  problem?(): string | undefined

  /**
   * The holding of that hash part, or undefined. A local holder answers synchronously, as it stands on the narinfo hot path;
   * but for a drive, whose disk may take its time.
   */
  find(hashPart: HashPart): Holding | undefined | Promise<Holding | undefined>

  /** Only where `find` takes its time: false where it is known at once, from memory, that there is no such path. */
  mayHave?(hashPart: HashPart): boolean

  /**
   * Only where `find` takes its time: what would be found, from memory, to be told of and not to be served: nobody has looked
   * whether it still stands. Undefined where memory does not tell.
   */
  recall?(hashPart: HashPart): Holding | undefined

  /** Where it is much cheaper than `find`: what would be found, as a sign. It lets an answer of before a restart be used again. */
  witness?(hashPart: HashPart): Witness | undefined

  /** Whether a holding found earlier still stands, much cheaper than finding it again (microseconds). */
  isCurrent(holding: Holding): boolean

  /**
   * Uncompressed NAR bytes from `offset` (default 0) up to `end` (exclusive, default the NAR's size).
   * The stream throws HOLDING_GONE when the path vanished, NAR_MISMATCH when fewer or more bytes come than promised.
   * It does not check the hash: {@link verify} does.
   */
  openNar(holding: Holding, range?: ByteRange): ByteStream

  /** The NAR file's bytes as they lie there (compressed): only where `holding.compression` is not 'none' or the file is a plain NAR file. */
  openFile?(holding: Holding, range?: ByteRange): ByteStream

  /**
   * The NAR as zstd frames made on the fly, the same bytes on every call so that a broken transfer resumes; the range
   * counts compressed bytes. Only where making NARs is what the holder does anyway (a live store).
   */
  openZstd?(holding: Holding, range?: ByteRange): ByteStream

  /**
   * Where bytes come from afar: the whole NAR as it lies on this machine since it came and was found right, so that `openNar`
   * needs no network; undefined when it is not, or no longer.
   */
  kept?(holding: Holding): KeptNar | undefined

  /** Reads the whole NAR once, strictly, in constant memory. `signal` stops it early (then it rejects with AbortError). */
  verify(holding: Holding, signal?: AbortSignal): Promise<Verification>

  /** The `.ls` listing (JSON text, with narOffset), or undefined. */
  listing(holding: Holding): Promise<SmallFile | undefined>
  /** A build log by the derivation's base name, uncompressed text, or undefined. */
  log(derivation: BaseName): Promise<SmallFile | undefined>
  /** A realisation's JSON by its id (`sha256:<hash>!<output>`, the old scheme) or undefined. */
  realisation(id: string): Promise<SmallFile | undefined>
  /** A build trace entry (Nix >= 2.35) by derivation base name and output name. */
  buildTrace(derivation: BaseName, output: string): Promise<SmallFile | undefined>
  /** Which store path has the debug file of that build id (40 hex digits), and where in it. */
  debugInfo(buildId: string): Promise<{ storePath: StorePath; member: string } | undefined>

  /** A file inside a held path, small (<= limit bytes), for proofs: a .drv, a text file. Undefined when absent or larger. */
  readFile(holding: Holding, pathInside: string, limit: number): Promise<Buffer | undefined>

  /** Every store path held, in no particular order: may take long, must not block (yields between batches), memory bounded. */
  paths(): AsyncIterable<readonly StorePath[]>
  /** The same with sizes, where `find` takes its time: a walk would ask for each. */
  heldPaths?(): AsyncIterable<readonly HeldPath[]>
  /** Where what came and went is found much cheaper than by `paths()`: a follower of its own for each listener. */
  follow?(): HolderFollower
  /** A number that changes whenever `paths()` may differ from before (cheap). */
  generation(): number | string
}
