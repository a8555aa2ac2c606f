import { encodeNix32 } from '../../protocol/nix32.ts'
import type { NarInfo } from '../../protocol/path-info.ts'
import { hashPartOf } from '../../protocol/store-path.ts'
import type { CacheDirWriter } from '../holders/cache-dir-writer.ts'
import type { Holder } from '../holders/holder.ts'
import type { Substitution } from '../substitution/substitution.ts'

export interface RepairOptions {
  readonly substitution: Pick<Substitution, 'candidates' | 'nar' | 'verdicts'>
  readonly writer: Pick<CacheDirWriter, 'add'>
  /** The drive on which the copy is damaged. */
  readonly holder: Holder
}

const HERE = { loopback: true, legacy: false } as const

/**
 * Makes what brings a path that is damaged on a drive from another holder of the site into the cache, and tells which; undefined
 * where nobody gives it. Upstreams are not asked: what a drive was to bring is not paid for by a thin line.
 */
export function createRepair({ substitution, writer, holder }: RepairOptions) {
  return async (info: NarInfo, problem: string): Promise<string | undefined> => {
    const hashPart = hashPartOf(info.storePath)
    try {
      const onDrive = await holder.find(hashPart)
      // Nobody is to be offered the drive's copy from now on.
      if (onDrive !== undefined) substitution.verdicts.condemn(holder, onDrive, problem)
      const [other] = (await substitution.candidates(hashPart, HERE)).filter(
        ({ holder: one, holding }) =>
          one.id !== holder.id &&
          one.kind !== 'upstream' &&
          Buffer.compare(holding.info.narHash.bytes, info.narHash.bytes) === 0,
      )
      if (other === undefined) return undefined
      const narHash = encodeNix32(info.narHash.bytes)
      const reply = await substitution.nar({ hashPart, narHash, compression: 'none' }, HERE, {
        resuming: false,
      })
      if (reply === undefined) return undefined
      const { url: _url, fileHash: _hash, fileSize: _size, compression: _packed, ...path } = info
      await writer.add(path, reply.open({ start: 0, end: info.narSize }), { partial: true })
      return other.holder.id
    } catch {
      // Then it stays damaged, which is said.
      return undefined
    }
  }
}
