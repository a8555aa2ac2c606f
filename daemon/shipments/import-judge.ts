import {
  parseContentAddress,
  storePathOfContentAddress,
  type ContentAddress,
} from '../../protocol/content-address.ts'
import type { ImportProof } from '../../protocol/api-archives.ts'
import { fixedOutput, parseDerivation } from '../../protocol/derivation.ts'
import { sameHash } from '../../protocol/hash.ts'
import type { PathInfo } from '../../protocol/path-info.ts'
import { fingerprint } from '../../protocol/signature.ts'
import { baseNameOf, hashPartOf, nameOf, type BaseName } from '../../protocol/store-path.ts'
import type { Holder, Holding } from '../holders/holder.ts'
import type { Audience } from '../substitution/candidates.ts'
import type { Substitution } from '../substitution/substitution.ts'
import type { Decision } from '../trust/trust.ts'
import { matchGlob } from '../trust/glob.ts'
import type { TrustRoom } from '../trust/trust-room.ts'
import type { ByteStream } from '../workers/byte-stream.ts'

// Whether a path of an archive may be kept: its format carries no signature, so what it says of itself counts for nothing.

/** What was found of a path. */
export type Judgement =
  | {
      readonly accepted: true
      readonly proof: ImportProof
      /** With proven signatures and content address, this host's own signature among them. */
      readonly info: PathInfo
    }
  | { readonly accepted: false; readonly problem: string }

/** A path of the archive, and its NAR. */
export interface JudgedPath {
  /** Signatures and content address are hearsay, of the side file. */
  readonly info: PathInfo
  /** The NAR's bytes, unpacked. */
  open(): ByteStream
}

export interface JudgeOptions {
  readonly trust: Pick<TrustRoom, 'judge' | 'sign'>
  /** Who else may be asked for the path: the same content elsewhere proves it. */
  readonly substitution: Pick<Substitution, 'candidates' | 'holders'>
  /** The cache that is imported into. */
  readonly cache: Holder
  readonly storeDir: string
}

/** Which paths the operator vouches for: patterns over whole paths, base names and names. */
export type Vouching = readonly string[]

const HERE: Audience = { loopback: true, legacy: false }

/** Bytes of a deriver's .drv read: the largest of nixpkgs 20.09 has 3.2 MB. */
const DERIVER_MAX_BYTES = 16 * 1024 ** 2

/** Where the proof of a content address ends (daemon/trust/content-address.ts): a larger NAR is not read for one. */
const PROOF_MAX_BYTES = 4 * 1024 ** 3

const sameList = (a: readonly string[], b: readonly string[]): boolean =>
  a.length === b.length && a.every((one, index) => one === b[index])

/** Whether two infos are of one path with one content. */
export const sameContent = (a: PathInfo, b: PathInfo): boolean =>
  a.storePath === b.storePath &&
  a.narSize === b.narSize &&
  sameHash(a.narHash, b.narHash) &&
  sameList(a.references, b.references)

/** Whether patterns name the path. */
export function isVouched({ storePath }: PathInfo, vouching: Vouching): boolean {
  const baseName = baseNameOf(storePath)
  return vouching.some(
    pattern =>
      pattern === storePath || matchGlob(pattern, baseName) || matchGlob(pattern, nameOf(baseName)),
  )
}

const refusal = (decision: Extract<Decision, { offered: false }>): string => {
  const { reason, untrustedKeys } = decision
  if (reason === 'denied') return 'share.deny keeps it from being offered, so it is not kept'
  if (reason === 'ca-mismatch') return 'its content is not what its content address says'
  return untrustedKeys.length === 0
    ? 'it has no signature, its content does not prove it, and nobody within reach offers the same'
    : `it has no trusted signature (only by ${untrustedKeys.join(', ')}), and its content does not prove it`
}

/** Makes the judge of one import. It asks and reads, and changes nothing. */
export function createJudge(options: JudgeOptions) {
  const { trust, substitution, cache, storeDir } = options

  /** The NAR as a holding of a cache, with derivations from all that this host has. */
  const asHolding = ({ info, open }: JudgedPath): readonly [Holder, Holding] => {
    const found = new Map<Holding, Holder>()
    const holder: Holder = {
      ...cache,
      kind: 'cache-dir',
      storeDir,
      openNar: open,
      async find(hashPart) {
        for (const own of [cache, ...substitution.holders]) {
          const held = await Promise.resolve(own.find(hashPart)).catch(() => undefined)
          if (held === undefined) continue
          found.set(held, own)
          return held
        }
        return undefined
      },
      readFile: async (held, path, limit) => found.get(held)?.readFile(held, path, limit),
    }
    return [holder, { info, identity: 'import', builtHere: false, compression: 'none' }]
  }

  /** What the path's derivation fixes its content to, if it is here and does. */
  const fixedAddress = async (path: JudgedPath): Promise<ContentAddress | undefined> => {
    const deriver: BaseName | undefined = path.info.deriver
    if (deriver === undefined) return undefined
    const [holder] = asHolding(path)
    try {
      const held = await holder.find(hashPartOf(deriver))
      const bytes = held && (await holder.readFile(held, '', DERIVER_MAX_BYTES))
      const fixed = bytes && fixedOutput(parseDerivation(bytes, { storeDir }))
      return fixed && { kind: 'fixed', method: fixed.method, hash: fixed.hash }
    } catch {
      return undefined
    }
  }

  /** Whether the path follows from an address that its content, which was read in vain for a proof, does not have. */
  const contradicts = ({ storePath, references, narSize }: PathInfo, ca: ContentAddress) => {
    const others = references.filter(reference => reference !== baseNameOf(storePath))
    if (others.length < references.length || narSize > PROOF_MAX_BYTES) return false
    if (ca.hash.algorithm === 'md5') return false
    try {
      const name = nameOf(storePath)
      return storePathOfContentAddress(ca, name, others, storeDir) === storePath
    } catch {
      return false
    }
  }

  /** Why not even the operator's word is enough. */
  const contradiction = async (path: JudgedPath): Promise<string | undefined> => {
    const { info } = path
    const given = info.ca === undefined ? undefined : parseContentAddress(info.ca)
    if (given !== undefined && contradicts(info, given)) {
      return 'its content is not what its content address says'
    }
    const fixed = await fixedAddress(path)
    if (fixed === undefined || !contradicts(info, fixed)) return undefined
    return `its content is not what its derivation ${info.deriver ?? ''} fixes it to`
  }

  /** The same content that may be offered here already, in whatever way. */
  const findSame = async (info: PathInfo): Promise<Judgement | undefined> => {
    const candidates = await substitution.candidates(hashPartOf(info.storePath), HERE)
    const same = candidates.find(({ holding }) => sameContent(holding.info, info))
    if (same === undefined) return undefined
    const { reason, key, ca, signatures } = same.decision
    const proof: ImportProof =
      reason === 'signed' && key !== undefined
        ? { how: 'signed', key }
        : reason === 'content-addressed'
          ? { how: 'content-addressed' }
          : { how: 'known', holder: same.holder.id }
    return { accepted: true, proof, info: { ...info, signatures, ca } }
  }

  const judge = async (path: JudgedPath, vouching: Vouching): Promise<Judgement> => {
    const { info } = path
    const decision = await trust.judge(...asHolding(path))
    if (decision.offered) {
      const { reason, key, ca, signatures } = decision
      const proof: ImportProof =
        reason === 'content-addressed'
          ? { how: 'content-addressed' }
          : { how: 'signed', key: key ?? '' }
      return { accepted: true, proof, info: { ...info, signatures, ca } }
    }
    const refused = { accepted: false, problem: refusal(decision) } as const
    if (decision.reason === 'denied') return refused
    const same = await findSame(info)
    if (same !== undefined) return same
    const contradicted = await contradiction(path)
    if (contradicted !== undefined) return { accepted: false, problem: contradicted }
    if (!isVouched(info, vouching)) return refused
    const signatures = [trust.sign(Buffer.from(fingerprint(info)))]
    return {
      accepted: true,
      proof: { how: 'trusted' },
      info: { ...info, signatures, ca: undefined },
    }
  }
  return judge
}
