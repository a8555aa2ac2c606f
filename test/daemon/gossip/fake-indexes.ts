import { inflateRawSync } from 'node:zlib'
import type { IndexPosition } from '../../../daemon/catalog/indexes.ts'
import type { Indexes } from '../../../daemon/gossip/indexes.ts'
import type { IndexEntry, PeerKey } from '../../../daemon/site.ts'
import { fail } from '../../../protocol/errors.ts'
import { decodeIndexBlock, indexPathsOf } from '../../../protocol/index-block.ts'
import { baseNameOf, type StorePath } from '../../../protocol/store-path.ts'

interface Log {
  readonly epoch: number
  readonly core: string
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
      const added = indexPathsOf(block, log.entries.length, nameAt)
      for (const { info } of added) {
        const before = log.entries.findIndex(one => one?.info.storePath === info.storePath)
        if (before >= 0) log.entries[before] = undefined
      }
      log.entries.push(...added)
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
    position(peer, which = 'newest'): IndexPosition | undefined {
      const log = (which === 'newest' ? arriving.get(peer) : undefined) ?? inForce.get(peer)
      if (log === undefined) return undefined
      const { epoch, core, length, entries } = log
      return {
        epoch,
        core,
        blocks: length,
        entries: entries.length,
        inForce: inForce.get(peer) === log,
      }
    },
    async begin(peer, { epoch, core }) {
      const known = [inForce.get(peer), arriving.get(peer)]
      if (known.some(log => log?.epoch === epoch && log.core === core)) return
      const log = { epoch, core, length: 0, entries: [] }
      if (inForce.has(peer)) arriving.set(peer, log)
      else inForce.set(peer, log)
    },
    async apply(peer, epoch, from, blocks) {
      const log = logOf(peer, epoch)
      if (log.length !== from) throw new Error(`block ${from} after ${log.length}`)
      const before = standing(log).length
      for (const block of blocks) applyOne(log, block)
      return { entries: log.entries.length, removed: Math.max(0, before - standing(log).length) }
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
    list: () =>
      [...inForce].map(([key, log]) => ({
        key,
        host: '',
        blocks: log.length,
        epoch: log.epoch,
        inForce: true,
        paths: standing(log).length,
        narBytes: standing(log).reduce((sum, { info }) => sum + info.narSize, 0),
      })),
    async *whole(peer) {
      const all = standing(inForce.get(peer))
      for (let at = 0; at < all.length; at += 500) yield all.slice(at, at + 500)
    },
    positionsOf(peer, paths, epoch) {
      const log = epoch === undefined ? inForce.get(peer) : logOf(peer, epoch)
      const found = new Map<string, number>()
      log?.entries.forEach((entry, position) => {
        if (entry !== undefined) found.set(baseNameOf(entry.info.storePath), position)
      })
      return paths.map(path =>
        found.get(path.startsWith('/') ? baseNameOf(path as StorePath) : path),
      )
    },
  }
}
