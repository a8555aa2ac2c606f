import { heldParts, partsOfHolder } from '../catalog/held-parts.ts'
import { decodeHaveDigest, encodeHaveDigest } from '../../protocol/have-digest.ts'
import type { HaveDigestAbout } from '../../protocol/have-digest.ts'
import type { Sign } from '../../protocol/signed-json.ts'
import type { HashPart } from '../../protocol/store-path.ts'

/** What a digest is made from: everything can be handed to a thread. */
export interface HaveTask {
  /** The catalog. */
  readonly file: string
  /** Only what this holder has. */
  readonly holder?: string | undefined
  readonly drives: boolean
  readonly toldOnly: boolean
  /** Hosts with a drive plugged that is not merged, and the digests of what is on it. */
  readonly suspects: readonly { readonly key: string; readonly digests: readonly Uint8Array[] }[]
  readonly about: HaveDigestAbout
}

/** A digest, with what it says of itself. */
export interface MadeDigest {
  readonly digest: Uint8Array
  readonly count: number
  readonly root: string
}

/** What is on any of those drives; a digest that cannot be read says nothing. */
function onAny(digests: readonly Uint8Array[]): (hashPart: HashPart) => boolean {
  const read = digests.flatMap(bytes => {
    try {
      return [decodeHaveDigest(bytes)]
    } catch {
      return []
    }
  })
  return hashPart => read.some(digest => digest.has(hashPart))
}

/** Makes a digest, in seconds a million paths and without a rest. Throws HAVE_DIGEST_INVALID, and what SQLite throws. */
export function makeDigest(task: HaveTask, sign: Sign): MadeDigest {
  const { file, drives, toldOnly, suspects, about } = task
  const { holder } = task
  const parts =
    holder !== undefined
      ? partsOfHolder(file, holder)
      : heldParts(file, {
          drives,
          toldOnly,
          suspects: suspects.map(({ key, digests }) => ({ key, onDrives: onAny(digests) })),
        })
  const digest = encodeHaveDigest(parts, about, sign)
  const { count, root } = decodeHaveDigest(digest)
  return { digest, count, root }
}
