import type { MergeResult } from '../../protocol/api-jobs.ts'
import type { Receipt } from '../../protocol/receipt.ts'
import { RECEIPT_DAMAGED_MAX, RECEIPT_MISSING_MAX } from '../../protocol/receipt.ts'
import type { StorePath } from '../../protocol/store-path.ts'
import type { Drive } from '../drives/drive.ts'
import type { DriveMerged } from './merge-drive.ts'

/** Paths of each list of a result; the numbers count all. */
const LISTED_MAX = 100

/** What a merge came to, in short. */
export function resultOf(
  drive: Drive,
  { plan, came, bytes, damaged, files }: DriveMerged,
  wantsMissing: readonly StorePath[] | undefined,
): MergeResult {
  const { shipment } = drive.contents
  const parked = plan.onDrive.filter(path => plan.stateOf(path) === 'parked')
  const repaired = damaged.filter(({ repairedFrom }) => repairedFrom !== undefined).length
  return {
    drive: { id: drive.id, name: drive.name },
    shipment: shipment && {
      id: shipment.manifest.id,
      part: shipment.manifest.part,
      parts: shipment.manifest.parts,
      depot: shipment.manifest.depot,
      signedBy: shipment.signedBy,
    },
    ...{ paths: plan.paths, cut: plan.cut, came, bytes, repaired, files },
    wasThere: plan.count('here'),
    elsewhere: plan.count('elsewhere') + plan.count('theirs'),
    damaged: damaged.length,
    damagedPaths: damaged.slice(0, LISTED_MAX),
    refused: plan.count('refused'),
    refusedPaths: plan.refusals,
    parked: parked.length,
    parkedPaths: parked.slice(0, LISTED_MAX).map(path => {
      const lacking = plan.lackingOf(path, new Set())
      return {
        storePath: plan.read(path).info.storePath,
        lacking: lacking === undefined ? '' : plan.hashPartOf(lacking),
      }
    }),
    noRoom: plan.count('no-room'),
    left: plan.count('todo'),
    wantsMissing: wantsMissing && {
      paths: wantsMissing.length,
      storePaths: wantsMissing.slice(0, LISTED_MAX),
    },
  }
}

/** Whether everything that may come from the drive has come. */
export const isWhole = (result: MergeResult): boolean =>
  !result.cut &&
  result.damaged === result.repaired &&
  result.refused + result.parked + result.noRoom + result.left === 0 &&
  (result.files === undefined || result.files.damaged + result.files.noRoom === 0)

const counted = (count: number, noun: string): string[] => (count === 0 ? [] : [`${count} ${noun}`])

/** One line: `12 paths came (3 MB), 30 were there`. */
export function summaryOf(result: MergeResult): string {
  const { came, wasThere, elsewhere, damaged, repaired, refused, parked, noRoom, left } = result
  const wants = result.wantsMissing?.paths ?? 0
  return [
    `${came} ${came === 1 ? 'path' : 'paths'} came`,
    ...counted(wasThere, 'were there'),
    ...counted(elsewhere, 'are kept by others'),
    ...counted(result.files?.came ?? 0, 'files came'),
    ...counted(repaired, 'damaged and repaired'),
    ...counted(damaged - repaired, 'damaged'),
    ...counted(refused, 'without a trusted signature'),
    ...counted(parked, 'lack what they refer to'),
    ...counted(noRoom, 'found no room'),
    ...counted(left, 'left'),
    ...counted(wants, 'still wished for'),
  ].join(', ')
}

/** What the receipt says of it. */
export function receiptOf(
  result: MergeResult,
  { damaged }: DriveMerged,
  facts: Pick<Receipt, 'host' | 'site' | 'at' | 'storeDir'> & {
    readonly missing: readonly StorePath[]
  },
): Receipt {
  const { shipment, came, bytes, wasThere, elsewhere } = result
  const { missing, ...rest } = facts
  return {
    ...rest,
    shipment: shipment && { id: shipment.id, part: shipment.part, parts: shipment.parts },
    drive: result.drive.name,
    complete: isWhole(result),
    ...{ came, bytes },
    wasThere: wasThere + elsewhere,
    left: result.refused + result.parked + result.noRoom + result.left,
    damaged: damaged.slice(0, RECEIPT_DAMAGED_MAX),
    missing: missing.slice(0, RECEIPT_MISSING_MAX),
  }
}
