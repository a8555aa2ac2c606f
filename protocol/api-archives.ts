// Types of the API for archives of `nix-store --export`. See api.ts for what holds of all types.
import type { ErrorReply } from './api.ts'

/** Why a path of an archive is kept. */
export type ImportProof =
  /** Signed by a trusted key, as its own signature in the side file or that of the same content elsewhere says. */
  | { readonly how: 'signed'; readonly key: string }
  /** The path follows from its content. */
  | { readonly how: 'content-addressed' }
  /** This host offers the very same already, from that holder. */
  | { readonly how: 'known'; readonly holder: string }
  /** The operator vouches for it. */
  | { readonly how: 'trusted' }

/** How many paths came to what, and the bytes of the NARs that are new. */
export interface ImportTotals {
  readonly accepted: number
  readonly there: number
  readonly refused: number
  readonly narBytes: number
}

/**
 * A line of the answer to `POST /api/v1/import?signatures=BYTES&size=BYTES&title=TEXT&trust=PATTERN` (`trust` may come several
 * times), whose body is the side file of so many bytes, if any, and behind it the archive. The last line is `end` or `failed`;
 * what was accepted before `failed` stays.
 */
export type ImportEvent =
  | { readonly event: 'start'; readonly job: number }
  | { readonly event: 'progress'; readonly bytes: number }
  | {
      readonly event: 'accepted'
      readonly storePath: string
      readonly narSize: number
      readonly proof: ImportProof
    }
  | {
      readonly event: 'there'
      readonly storePath: string
      /** What is there has another content, and stays. */
      readonly differs: boolean
    }
  | { readonly event: 'refused'; readonly storePath: string; readonly problem: string }
  | ({ readonly event: 'end' } & ImportTotals)
  | { readonly event: 'failed'; readonly error: ErrorReply['error'] }

/** `POST /api/v1/export`: what is to be exported. */
export interface ExportWish {
  readonly paths: readonly string[]
  /** All they refer to as well. */
  readonly closure: boolean
  /** Whether the lines of the side file are wanted. */
  readonly signatures: boolean
}

/**
 * What `POST /api/v1/export` says beside the archive, in frames (see archive-frames.ts). The last is `end` or `failed`; without
 * `end` the archive is not complete.
 */
export type ExportEvent =
  | { readonly event: 'start'; readonly paths: number; readonly narBytes: number }
  /** A path was written; its line of the side file, if that is wanted. */
  | {
      readonly event: 'exported'
      readonly storePath: string
      readonly narSize: number
      readonly line?: string
    }
  | { readonly event: 'missing'; readonly storePath: string; readonly problem: string }
  | {
      readonly event: 'end'
      readonly exported: number
      readonly narBytes: number
      /** What exported paths refer to and the archive does not have: whoever imports it must have them, these among them. */
      readonly outside: readonly string[]
      readonly outsideCount: number
    }
  | { readonly event: 'failed'; readonly error: ErrorReply['error'] }
