import type { ShipmentEntry } from '../../protocol/shipment-index.ts'
import type { Holder } from './holder.ts'

/** A flat binary cache on a drive. */
export interface DriveHolder extends Holder {
  readonly kind: 'drive'
  /**
   * Every path with what its narinfo says, in the order in which it was packed where a trusted index tells (references
   * first), else as the directory lists them. In batches; bounded memory; throws HOLDER_UNREADABLE when the drive goes.
   */
  entries(): AsyncIterable<readonly ShipmentEntry[]>
}
