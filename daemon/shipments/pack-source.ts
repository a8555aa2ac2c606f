import type { Compression } from '../../protocol/path-info.ts'
import type { HashPart } from '../../protocol/store-path.ts'
import type { Holder } from '../holders/holder.ts'
import { findCandidates, type Audience, type Candidate } from '../substitution/candidates.ts'
import type { Substitution } from '../substitution/substitution.ts'
import type { Trust } from '../trust/trust.ts'
import type { ByteStream } from '../workers/byte-stream.ts'
import { frameNar } from './pack-frames.ts'

// Where a shipment's NARs come from, and in what shape they are taken: as they lie there where they are packed already.

/** Everything this host offers on this machine may go on a drive. */
const HERE: Audience = { loopback: true, legacy: false }

/** Finds who gives a path. */
export interface PackSources {
  /** Those that may be shipped, in the order in which they are tried. */
  find(hashPart: HashPart): Promise<readonly Candidate[]>
}

export interface PackSourcesOptions {
  readonly substitution: Pick<Substitution, 'candidates'>
  readonly trust: Trust
  readonly storeDir: string
  /** A further cache that the packer named, beside this host's own holders. */
  readonly from?: Holder | undefined
  /** Id of the holder that the target itself is: nothing is packed from where it goes. */
  readonly without?: string | undefined
}

/** Bytes on this machine: a drive's, a directory's; what lies packed elsewhere costs a link. */
const isLocalFile = ({ holder, holding }: Candidate): boolean =>
  holding.compression !== 'none' &&
  holder.openFile !== undefined &&
  (holder.kind === 'cache-dir' || holder.kind === 'drive')

/** Makes the sources of one shipment. */
export function createPackSources(options: PackSourcesOptions): PackSources {
  const { substitution, trust, storeDir, from, without } = options
  const isRemote = from !== undefined && from.kind === 'upstream'
  return {
    async find(hashPart) {
      const own = (await substitution.candidates(hashPart, HERE)).filter(
        ({ holder }) => holder.id !== without,
      )
      const others =
        from === undefined || (isRemote && own.length > 0)
          ? []
          : await findCandidates([from], trust, storeDir, hashPart)
      const all = [...own, ...others]
      // A file that is packed already is copied: that takes no processor time, and xz half the room of what is packed here.
      const ready = all.filter(isLocalFile)
      return ready.length === 0 ? all : [...ready, ...all.filter(one => !ready.includes(one))]
    },
  }
}

/** A NAR on its way to the drive. */
export interface PackedNar {
  readonly compression: Compression
  /** Bytes that it will take; an upper bound where only the packing tells. */
  readonly fileBytes: number
  readonly exact: boolean
  open(): ByteStream
}

/** What zstd adds to what cannot be made smaller, per slice and in all. */
const FRAME_SLACK = 1.001
const FRAME_OVERHEAD_BYTES = 1024

/** How a candidate's NAR goes on the drive: the file as it is, or zstd frames made of the NAR, the same bytes whoever gives it. */
export function packedNarOf({ holder, holding }: Candidate): PackedNar {
  const { compression, fileSize, info } = holding
  if (compression !== 'none' && holder.openFile !== undefined && fileSize !== undefined) {
    const openFile = holder.openFile.bind(holder)
    return { compression, fileBytes: fileSize, exact: true, open: () => openFile(holding) }
  }
  return {
    compression: 'zstd',
    fileBytes: Math.ceil(info.narSize * FRAME_SLACK) + FRAME_OVERHEAD_BYTES,
    exact: false,
    open: () => holder.openZstd?.(holding) ?? frameNar(holder.openNar(holding)),
  }
}
