import { encodeNix32 } from '../../protocol/nix32.ts'
import type { ShipmentEntry } from '../../protocol/shipment-index.ts'
import { fingerprint } from '../../protocol/signature.ts'
import { hashPartOf } from '../../protocol/store-path.ts'
import type { DriveHolder } from '../holders/drive.ts'
import type { Holding } from '../holders/holder.ts'
import type { TrustRoom } from '../trust/trust-room.ts'
import type { Decision } from '../trust/trust.ts'
import type { Admitted } from './merge-plan.ts'

export interface AdmissionOptions {
  readonly trust: Pick<TrustRoom, 'decide' | 'judge' | 'sign'>
  readonly holder: DriveHolder
  /** The operator vouches for whatever lies on the drive: what has no trusted signature is signed by this host. */
  readonly vouch: boolean
}

const REFUSALS: Readonly<Record<Extract<Decision, { offered: false }>['reason'], string>> = {
  'no-trusted-signature': 'no trusted signature',
  denied: 'share.deny names it',
  'ca-mismatch': 'its content address does not lead to it',
}

const admitted = (
  { info }: ShipmentEntry,
  { signatures, ca }: Extract<Decision, { offered: true }>,
): Admitted => ({
  // Others may know keys that this host does not.
  signatures: [...new Set([...signatures, ...info.signatures])],
  ca,
})

/**
 * Decides which of a drive's paths may come into the cache, exactly as substitution decides which may be offered. The entries'
 * facts are enough for nearly all: a drive of 100,000 paths is not asked for each narinfo.
 */
export function createAdmission({ trust, holder, vouch }: AdmissionOptions) {
  return async (entry: ShipmentEntry): Promise<Admitted> => {
    const { info } = entry
    const asTold: Holding = {
      info,
      identity: `entry ${encodeNix32(info.narHash.bytes)}`,
      builtHere: false,
      compression: info.compression,
    }
    const first = info.signatures.length > 0 ? await trust.judge(holder, asTold) : undefined
    if (first?.offered === true) return admitted(entry, first)
    // Content may have to be read for a proof, and for that the holder must know what is asked about.
    const holding = await holder.find(hashPartOf(info.storePath))
    if (holding === undefined) return { refused: 'it cannot be read' }
    if (Buffer.compare(holding.info.narHash.bytes, info.narHash.bytes) !== 0) {
      return { refused: 'its narinfo says another NAR hash than the index' }
    }
    const decision = await trust.decide(holder, holding)
    if (decision.offered) return admitted(entry, decision)
    if (
      vouch &&
      decision.reason === 'no-trusted-signature' &&
      info.narHash.algorithm === 'sha256'
    ) {
      const own = trust.sign(Buffer.from(fingerprint(info)))
      return { signatures: [...new Set([own, ...info.signatures])], ca: undefined }
    }
    return { refused: REFUSALS[decision.reason] }
  }
}
