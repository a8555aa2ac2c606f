import { formatNarUrl } from '../../protocol/nar-url.ts'
import { formatNarinfo } from '../../protocol/narinfo.ts'
import { encodeNix32 } from '../../protocol/nix32.ts'
import type { NarInfo } from '../../protocol/path-info.ts'
import { hashPartOf } from '../../protocol/store-path.ts'
import { reads, type Audience, type Candidate } from './candidates.ts'

/** How NARs made on the fly go to other machines: as they are, or as zstd frames (`http.compression`). */
export type LiveCompression = 'none' | 'zstd'

/** Whether the candidate has its NAR packed in a file that this audience can be sent as it is. */
const isReady = ({ holder, holding }: Candidate, audience: Audience) =>
  holding.compression !== 'none' &&
  holder.openFile !== undefined &&
  holding.fileHash?.algorithm === 'sha256' &&
  reads(audience, holding.compression)

/**
 * The candidate to name in the narinfo: on this machine the first (the live store, uncompressed, is quickest there),
 * for another machine one whose NAR lies packed already, which costs neither CPU nor link.
 */
export function chooseForNarinfo(
  candidates: readonly Candidate[],
  audience: Audience,
): Candidate | undefined {
  const [first] = candidates
  if (audience.loopback || first === undefined) return first
  return candidates.find(candidate => isReady(candidate, audience)) ?? first
}

/**
 * The narinfo for a candidate, written anew: nothing of another cache's text is passed on (a relayed bad Sig or CA aborts
 * some Nix versions), only parsed facts, signatures that verified, and our own URL.
 * One character of the result is one byte (latin1): a string is a third smaller in memory than a buffer of its own and
 * is written as cheaply.
 */
export function renderNarinfo(
  candidate: Candidate,
  audience: Audience,
  live: LiveCompression,
): string {
  const { holder, holding, decision } = candidate
  const { info } = holding
  const hashPart = hashPartOf(info.storePath)
  const narHash = encodeNix32(info.narHash.bytes)
  const common = { ...info, ca: decision.ca, signatures: decision.signatures }
  let narinfo: NarInfo
  if (isReady(candidate, audience) && holding.fileHash !== undefined) {
    const url = formatNarUrl({
      hashPart,
      narHash,
      fileHash: encodeNix32(holding.fileHash.bytes),
      compression: holding.compression,
    })
    narinfo = {
      ...common,
      url,
      compression: holding.compression,
      fileHash: holding.fileHash,
      fileSize: holding.fileSize,
    }
  } else {
    const packs =
      !audience.loopback &&
      live === 'zstd' &&
      holder.openZstd !== undefined &&
      reads(audience, 'zstd')
    const compression = packs ? 'zstd' : 'none'
    const url = formatNarUrl({ hashPart, narHash, compression })
    narinfo =
      compression === 'none'
        ? { ...common, url, compression, fileHash: info.narHash, fileSize: info.narSize }
        : { ...common, url, compression, fileHash: undefined, fileSize: undefined }
  }
  return Buffer.from(formatNarinfo(narinfo)).toString('latin1')
}
