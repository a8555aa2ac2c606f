import { inflateRawSync } from 'node:zlib'
import type { IndexPosition, Indexes } from '../../../daemon/gossip/indexes.ts'
import type { IndexEntry, PeerKey } from '../../../daemon/site.ts'
import { fail } from '../../../protocol/errors.ts'
import { decodeIndexBlock, indexPathsOf } from '../../../protocol/index-block.ts'
import { baseNameOf, type BaseName } from '../../../protocol/store-path.ts'

interface Log {
  readonly epoch: number
  length: number
  readonly entries: (IndexEntry | undefined)[]
}

/** The catalog's part in gossip, in memory: blocks are really decoded. */
export interface FakeIndexes extends Indexes {
  /** Names of what stands, sorted. */
  names(peer: PeerKey): string[]
  readonly forgotten: PeerKey[]
}

export function fakeIndexes(): FakeIndexes {
  const inForce = new Map<PeerKey, Log>()
  const arriving = new Map<PeerKey, Log>()
  const forgotten: PeerKey[] = []
  const inflate = (bytes: Uint8Array, maxOutputLength: number) =>
    inflateRawSync(bytes, { maxOutputLength })

  const logOf = (peer: PeerKey, epoch: number): Log => {
    const log = [arriving.get(peer), inForce.get(peer)].find(one => one?.epoch === epoch)
    if (log === undefined) throw new Error(`no log of epoch ${epoch} was begun`)
    return log
  }
  const applyOne = (log: Log, bytes: Uint8Array) => {
    const block = decodeIndexBlock(bytes, inflate)
    if (block.kind === 'remove') {
      for (const position of block.positions) {
        if (log.entries[position] === undefined) fail('INDEX_INVALID', { problem: 'gone already' })
        log.entries[position] = undefined
      }
    } else {
      const nameAt = (position: number) => {
        const entry = log.entries[position]
        return entry === undefined ? undefined : baseNameOf(entry.info.storePath)
      }
      log.entries.push(...indexPathsOf(block, log.entries.length, nameAt))
    }
    log.length += 1
  }
  const standing = (log: Log | undefined): IndexEntry[] =>
    log?.entries.filter(entry => entry !== undefined) ?? []

  return {
    forgotten,
    names: peer =>
      standing(inForce.get(peer))
        .map(({ info }) => baseNameOf(info.storePath).slice(33))
        .sort(),
    position(peer): IndexPosition | undefined {
      const log = inForce.get(peer)
      return (
        log && {
          epoch: log.epoch,
          length: log.length,
          entries: log.entries.length,
          paths: standing(log).length,
          narBytes: standing(log).reduce((sum, { info }) => sum + info.narSize, 0),
        }
      )
    },
    async begin(peer, epoch) {
      arriving.set(peer, { epoch, length: 0, entries: [] })
    },
    async apply(peer, epoch, from, blocks) {
      const log = logOf(peer, epoch)
      if (log.length !== from) throw new Error(`block ${from} after ${log.length}`)
      for (const block of blocks) applyOne(log, block)
    },
    async finish(peer, epoch) {
      inForce.set(peer, logOf(peer, epoch))
      arriving.delete(peer)
    },
    async forget(peer) {
      inForce.delete(peer)
      arriving.delete(peer)
      forgotten.push(peer)
    },
    list: () => [...inForce.keys()],
    async *entries(peer) {
      const all = standing(inForce.get(peer))
      for (let at = 0; at < all.length; at += 500) yield all.slice(at, at + 500)
    },
    async positionsOf(peer, epoch, paths) {
      const wanted = new Set(paths)
      const found = new Map<BaseName, number>()
      logOf(peer, epoch).entries.forEach((entry, position) => {
        const name = entry && baseNameOf(entry.info.storePath)
        if (name !== undefined && wanted.has(name)) found.set(name, position)
      })
      return found
    },
  }
}
