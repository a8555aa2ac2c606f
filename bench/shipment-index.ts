import { createHash, randomBytes } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { decodeHaveDigest, encodeHaveDigest } from '../protocol/have-digest.ts'
import { formatNarinfo, parseNarinfo } from '../protocol/narinfo.ts'
import {
  createShipmentIndexReader,
  createShipmentIndexWriter,
  shipmentNarUrl,
  type ShipmentEntry,
} from '../protocol/shipment-index.ts'
import { generateKeyPair } from '../protocol/signature.ts'
import { signerOf } from '../protocol/signed-json.ts'
import { hashPartOf } from '../protocol/store-path.ts'
import { deflate, inflate, syntheticPaths } from '../test/helpers/index-paths.ts'
import { createScope, tempDir } from '../test/helpers/scope.ts'
import { benchOptions, inRounds, report, reportValue } from './lib/rounds.ts'

// What a host learns of a drive when it is plugged in: from the index file, and from as many narinfos, in files that the
// kernel has in memory. On a stick that has to seek for each narinfo the ratio is larger still. And the have digest.

const { quick, rounds } = benchOptions(3)
const PATHS = quick ? 10_000 : 100_000
const BLOCK_PATHS = 500
const CHUNK_BYTES = 256 * 1024

function makeEntries(signatures: number): ShipmentEntry[] {
  return Array.from(syntheticPaths(PATHS, { signatures }), ({ info, builtHere }): ShipmentEntry => {
    const bytes = createHash('sha256').update(info.storePath).digest()
    return {
      builtHere,
      info: {
        ...info,
        url: shipmentNarUrl(bytes, 'zstd'),
        compression: 'zstd',
        fileHash: { algorithm: 'sha256', bytes },
        fileSize: Math.ceil(info.narSize * 0.3),
      },
    }
  })
}

function encode(entries: readonly ShipmentEntry[]): Buffer {
  const writer = createShipmentIndexWriter('/nix/store', deflate)
  const pieces: Buffer[] = []
  for (let at = 0; at < entries.length; at += BLOCK_PATHS) {
    pieces.push(writer.add(entries.slice(at, at + BLOCK_PATHS)))
  }
  return Buffer.concat([...pieces, writer.finish()])
}

/** CPU time in ms, the kernel's too: on a busy machine wall time says how busy it is. */
function took(work: () => void): number {
  const { user, system } = process.cpuUsage()
  work()
  const end = process.cpuUsage()
  return (end.user + end.system - user - system) / 1000
}

/** Reads the file in chunks; `first` stops at the first entry. */
function readIndex(file: string, first: boolean): void {
  const bytes = readFileSync(file)
  const reader = createShipmentIndexReader(inflate)
  for (let at = 0; at < bytes.length; at += CHUNK_BYTES) {
    const entries = reader.write(bytes.subarray(at, at + CHUNK_BYTES))
    if (first && entries.length > 0) return
  }
  reader.end()
}

const scope = createScope()
try {
  const dir = tempDir(scope, 'shipment-index')
  const entries = makeEntries(1)
  const plain = encode(makeEntries(0))
  reportValue(`index file of ${PATHS} paths, no signatures`, 'bytes a path', plain.length / PATHS, {
    atMost: 135,
  })
  const signed = encode(entries)
  reportValue('the same with one signature', 'bytes a path', signed.length / PATHS)
  const index = join(dir, '000001.blk')
  writeFileSync(index, signed)
  const narinfos = entries.map(({ info }) => {
    const file = join(dir, `${hashPartOf(info.storePath)}.narinfo`)
    writeFileSync(file, formatNarinfo(info))
    return file
  })

  report(
    `${PATHS} paths of a shipment`,
    'ms CPU',
    await inRounds(
      {
        'read and parse narinfos': async () =>
          took(() => {
            for (const file of narinfos) parseNarinfo(readFileSync(file))
          }),
        'read and decode the index file': async () => took(() => readIndex(index, false)),
        'until its first entries': async () => took(() => readIndex(index, true)),
        'encode the index file': async () => took(() => void encode(entries)),
      },
      rounds,
    ),
    { 'read and decode the index file': { atMost: 1 } },
  )

  const hashParts = entries.map(({ info }) => hashPartOf(info.storePath))
  const about = { site: 'bench', createdAt: '2026-01-31T12:00:00Z', shipments: [] }
  const sign = signerOf(generateKeyPair('bench-1'))
  const make = () => encodeHaveDigest(hashParts, { ...about, salt: randomBytes(16) }, sign)
  const have = make()
  reportValue(`have digest of ${PATHS} paths`, 'bytes', have.length, { atMost: PATHS * 4.3 })
  const digest = decodeHaveDigest(have)
  report(
    `have digest of ${PATHS} paths`,
    'ms CPU',
    await inRounds(
      {
        'a Set of as many': async () =>
          took(() => {
            const set = new Set(hashParts)
            if (!hashParts.every(hashPart => set.has(hashPart))) throw new Error('a path is lost')
          }),
        encode: async () => took(() => void make()),
        decode: async () => took(() => void decodeHaveDigest(have)),
        'ask for each': async () =>
          took(() => {
            if (!hashParts.every(digest.has)) throw new Error('a path is lost')
          }),
      },
      rounds,
    ),
  )
} finally {
  await scope.close()
}
