import { randomBytes } from 'node:crypto'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createEventBus } from '../../daemon/events.ts'
import { createCacheDirWriter } from '../../daemon/holders/cache-dir-writer.ts'
import { createCacheDirHolder } from '../../daemon/holders/cache-dir.ts'
import type { Holder } from '../../daemon/holders/holder.ts'
import { createIntakeThreads, type IntakeThreads } from '../../daemon/holders/intake-start.ts'
import type { JobHandle } from '../../daemon/jobs/jobs.ts'
import { createShip } from '../../daemon/shipments/pack.ts'
import type { ShipHost, ShipWish } from '../../daemon/shipments/pack-prepare.ts'
import { findCandidates } from '../../daemon/substitution/candidates.ts'
import { createVerdicts, type VerdictStore } from '../../daemon/substitution/verdicts.ts'
import type { Trust } from '../../daemon/trust/trust.ts'
import type { TrustRoom } from '../../daemon/trust/trust-room.ts'
import { createNarPool } from '../../daemon/workers/create-nar-pool.ts'
import type { ShipResult } from '../../protocol/api-shipments.ts'
import { formatCacheInfo } from '../../protocol/cache-info.ts'
import type { PathInfo } from '../../protocol/path-info.ts'
import {
  fingerprint,
  formatPublicKey,
  parseSecretKey,
  signText,
  type SecretKey,
} from '../../protocol/signature.ts'
import { parseBaseName, type StorePath } from '../../protocol/store-path.ts'
import { narHashOf } from './fake-peer.ts'
import { narOf, pathOf, type Tree } from './nix-store.ts'
import type { Scope } from './scope.ts'

// A depot without daemon: holders, a trust that signs, and the function that packs.

/** The key that signs in tests; the same everywhere, so that two depots pack the same bytes. */
export const DEPOT_KEY: SecretKey = parseSecretKey(
  'depot-1:qszTsh9bxdtkyRq3ZtpH1k9aDVsxrPsHBVbAGeSE0ktKgbqSEckdzbIwQMarXqs87HWCmsP3Q2UV9LkGYqEKUg==',
)

/** A path of a test: what it has, and what it refers to. */
export interface ShipPath {
  readonly tree: Tree
  readonly references?: readonly string[]
}

export const infoOf = (
  name: string,
  nar: Buffer,
  references: readonly string[] = [],
): PathInfo => ({
  storePath: pathOf(name),
  narHash: narHashOf(nar),
  narSize: nar.length,
  references: references.map(reference => parseBaseName(pathOf(reference).slice(11))).sort(),
  signatures: [],
})

/** Writes a cache with those paths, in their order. */
export async function writeCache(
  dir: string,
  paths: Readonly<Record<string, ShipPath>>,
  compression: 'zstd' | 'none' = 'zstd',
): Promise<void> {
  mkdirSync(dir, { recursive: true })
  writeFileSync(
    join(dir, 'nix-cache-info'),
    formatCacheInfo({ storeDir: '/nix/store', wantMassQuery: true, priority: undefined }),
  )
  const writer = createCacheDirWriter({ dir, compression })
  await writer.open()
  for (const [name, { tree, references }] of Object.entries(paths)) {
    const nar = narOf(tree)
    await writer.add(infoOf(name, nar, references), {
      recycle() {},
      destroy() {},
      async *[Symbol.asyncIterator]() {
        yield nar
      },
    })
  }
}

/** A trust that offers what it signs itself, and that is everything. */
export function signingTrust(key: SecretKey): Trust & Pick<TrustRoom, 'sign'> {
  const trust: Trust = {
    publicKey: formatPublicKey(key.publicKey),
    open: async () => {},
    close: async () => {},
    decide: (_holder, { info }) => ({
      offered: true,
      reason: 'signed',
      key: key.name,
      public: true,
      signatures: [signText(fingerprint(info), key)],
    }),
  }
  return {
    ...trust,
    sign: bytes => signText(bytes.toString('utf8'), key),
  }
}

/** Verdicts in memory. */
export function memoryVerdicts(): VerdictStore {
  const rows = new Map<string, { problem?: string | undefined }>()
  return {
    get: (holderId, identity) => rows.get(`${holderId}\n${identity}`),
    put: (holderId, identity, problem) => void rows.set(`${holderId}\n${identity}`, { problem }),
  }
}

export interface Depot {
  readonly host: ShipHost
  readonly holders: Holder[]
  readonly notes: string[]
  /** Packs, and gives what came of it. */
  ship(
    wish: Partial<ShipWish> & { readonly dir: string },
    signal?: AbortSignal,
  ): Promise<ShipResult & { state: string }>
}

/** One set for all depots of a test file. */
let threads: IntakeThreads | undefined

/** Makes a depot over cache directories. */
export async function makeDepot(scope: Scope, dirs: readonly string[]): Promise<Depot> {
  const pool = createNarPool()
  await pool.open()
  scope.teardown(() => pool.close())
  const trust = signingTrust(DEPOT_KEY)
  threads ??= createIntakeThreads()
  const holders: Holder[] = dirs.map(dir =>
    createCacheDirHolder({ dir, pool, expectedStoreDir: '/nix/store' }),
  )
  const verifications = memoryVerdicts()
  const host: ShipHost = {
    substitution: {
      candidates: async part => findCandidates(holders, trust, '/nix/store', part),
      verdicts: createVerdicts(memoryVerdicts(), createEventBus()),
    },
    ...{ trust, pool, verifications, threads },
    storeDir: '/nix/store',
    search: async () => [],
    hostName: 'depot',
    cacheDir: dirs[0] ?? '/nonexistent',
    forbidden: dirs,
    holders: () => holders,
    openFrom: async dir => createCacheDirHolder({ dir, pool, expectedStoreDir: '/nix/store' }),
  }
  const notes: string[] = []
  const ship = createShip(host)
  return {
    ...{ host, holders, notes },
    async ship(wish, signal = new AbortController().signal) {
      const job: JobHandle = { id: 1, signal, progress() {}, note: line => void notes.push(line) }
      const outcome = await ship({ roots: [], createdAt: '2026-01-02T03:04:05Z', ...wish }, job)
      return { ...(outcome.result as ShipResult), state: outcome.state ?? 'done' }
    },
  }
}

/** A closure of several paths: text, noise that cannot be packed, links, an empty one. */
export function sampleClosure(noiseBytes = 300_000): Record<string, ShipPath> {
  return {
    glibc: { tree: { dir: { lib: { dir: { 'libc.so': randomBytes(noiseBytes) } } } } },
    bash: {
      tree: { dir: { sh: { executable: '#!/bin/sh\n'.repeat(2000) } } },
      references: ['glibc', 'bash'],
    },
    gtk: {
      tree: { dir: { readme: 'text\n'.repeat(60_000), link: { link: 'readme' } } },
      references: ['glibc'],
    },
    firefox: { tree: { dir: { bin: randomBytes(noiseBytes * 2) } }, references: ['gtk', 'glibc'] },
    empty: { tree: '' },
    top: { tree: 'top\n', references: ['bash', 'firefox', 'empty'] },
  }
}

export const rootOf = (name: string): StorePath => pathOf(name)
