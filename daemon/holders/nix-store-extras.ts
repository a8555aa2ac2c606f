import { lstat } from 'node:fs/promises'
import { setImmediate as yieldToEventLoop } from 'node:timers/promises'
import { isNarwharfError } from '../../protocol/errors.ts'
import { parseHash } from '../../protocol/hash.ts'
import {
  formatBuildTrace,
  formatRealisation,
  formatRealisationId,
  parseRealisationId,
} from '../../protocol/realisation.ts'
import { isSignature } from '../../protocol/signature.ts'
import { baseNameOf, hashPartOf, isStoreName, parseStorePath } from '../../protocol/store-path.ts'
import type { BaseName, HashPart, StorePath } from '../../protocol/store-path.ts'
import type { NarPool } from '../workers/nar-pool.ts'
import type { Holder, Holding } from './holder.ts'
import type { NixDb } from './nix-db.ts'
import { PATHS_AFTER } from './nix-rows.ts'
import { isFileInside, LOG_MAX_BYTES, orAbsent, readUnpacked } from './small-file.ts'

// What a live store has beside its NARs: build logs, realisations and build traces (ca-derivations only), debug files.

/** What the extras of one store are read with. */
export interface NixExtrasOptions {
  readonly db: NixDb
  readonly pool: NarPool
  readonly storeDir: string
  /** Where the store directory really lies. */
  readonly physicalDir: string
  readonly logDir: string
  find(hashPart: HashPart): Holding | undefined
}

type NixExtras = Pick<Holder, 'log' | 'realisation' | 'buildTrace' | 'debugInfo'>

const HAS_TABLE = "select 1 from sqlite_master where type = 'table' and name = ?"

/** Nix 2.4 to 2.34, src/libstore/ca-specific-schema.sql: the key is the hash of the derivation, in base16. */
const REALISATION = `select r.id, p.path, r.signatures from Realisations r
  join ValidPaths p on p.id = r.outputPath where r.drvPath = ? and r.outputName = ? limit 1`
const DEPENDENT_REALISATIONS = `select r.drvPath, r.outputName, p.path from RealisationsRefs f
  join Realisations r on r.id = f.realisationReference
  join ValidPaths p on p.id = r.outputPath where f.referrer = ?`

/** Nix >= 2.35: the key is the derivation's base name; V2 names the output by row, V3 by path. Newest first. */
const BUILD_TRACES: readonly (readonly [table: string, sql: string])[] = [
  [
    'BuildTraceV3',
    'select outputPath, signatures from BuildTraceV3 where drvPath = ? and outputName = ? limit 1',
  ],
  [
    'BuildTraceV2',
    `select p.path, b.signatures from BuildTraceV2 b
     join ValidPaths p on p.id = b.outputPath where b.drvPath = ? and b.outputName = ? limit 1`,
  ],
]

/** Rows of one step of the walk for debug outputs: under a millisecond of the event loop. */
const ROWS_PER_STEP = 500

/** Most debug outputs looked through for a build id, the newest: one file system call each. */
const DEBUG_OUTPUTS_MAX = 10_000

const DEBUG_NAME_END = '-debug'

const signaturesOf = (text: unknown): readonly string[] =>
  typeof text === 'string' ? text.split(' ').filter(isSignature) : []

/** Malformed rows count as absent. */
function parsed<T>(parse: () => T): T | undefined {
  try {
    return parse()
  } catch (error) {
    if (isNarwharfError(error)) return undefined
    throw error
  }
}

/** The debug outputs of a store: grows with the store's ids, so that a question reads only what is new. */
function createDebugOutputs(db: NixDb, storeDir: string) {
  let known: StorePath[] = []
  let last = 0
  let opening = 0
  let walk: Promise<void> | undefined

  const walkOn = async (): Promise<void> => {
    for (;;) {
      const { rows, now } = db.read(queries => ({
        now: queries.opening,
        rows: queries.all(PATHS_AFTER, last, ROWS_PER_STEP),
      }))
      // Another database in the same place counts its ids anew.
      if (now !== opening) {
        known = []
        last = 0
        opening = now
        continue
      }
      for (const [id, path] of rows) {
        last = id as number
        if (!String(path).endsWith(DEBUG_NAME_END)) continue
        const storePath = parsed(() => parseStorePath(String(path), storeDir))
        if (storePath !== undefined) known.push(storePath)
      }
      if (known.length > DEBUG_OUTPUTS_MAX) known = known.slice(-DEBUG_OUTPUTS_MAX)
      if (rows.length < ROWS_PER_STEP) return
      await yieldToEventLoop()
    }
  }

  return async (): Promise<readonly StorePath[]> => {
    walk ??= walkOn().finally(() => {
      walk = undefined
    })
    await walk
    return known
  }
}

/** The verbs of a live store that are not about NARs. */
export function createNixExtras(options: NixExtrasOptions): NixExtras {
  const { db, pool, storeDir, physicalDir, logDir } = options
  const debugOutputs = createDebugOutputs(db, storeDir)

  return {
    async log(derivation) {
      const [shelf, rest] = [derivation.slice(0, 2), derivation.slice(2)]
      // The order of LocalFSStore::getBuildLogExact.
      for (const file of [`drvs/${shelf}/${rest}`, `drvs/${derivation}`]) {
        for (const ending of ['', '.bz2']) {
          const text = await readUnpacked(pool, `${logDir}/${file}${ending}`, LOG_MAX_BYTES)
          if (text !== undefined) return text
        }
      }
      return undefined
    },

    async realisation(text) {
      const id = parsed(() => parseRealisationId(text))
      if (id === undefined) return undefined
      const [drvHash = '', output = ''] = formatRealisationId(id).split('!')
      const rows = db.read(queries => {
        if (queries.get(HAS_TABLE, 'Realisations') === undefined) return undefined
        const row = queries.get(REALISATION, drvHash, output)
        if (row === undefined) return undefined
        const hasReferences = queries.get(HAS_TABLE, 'RealisationsRefs') !== undefined
        return {
          row,
          dependent: hasReferences ? queries.all(DEPENDENT_REALISATIONS, row[0] as number) : [],
        }
      })
      if (rows === undefined) return undefined
      return parsed(() => {
        const dependentRealisations = new Map<string, BaseName>()
        for (const [hash, name, path] of rows.dependent) {
          const key = { drvHash: parseHash(String(hash)), output: String(name) }
          dependentRealisations.set(
            formatRealisationId(key),
            baseNameOf(parseStorePath(String(path), storeDir)),
          )
        }
        const outPath = baseNameOf(parseStorePath(String(rows.row[1]), storeDir))
        const signatures = signaturesOf(rows.row[2])
        return Buffer.from(formatRealisation({ id, outPath, signatures, dependentRealisations }))
      })
    },

    async buildTrace(derivation, output) {
      if (!isStoreName(output)) return undefined
      const row = db.read(queries => {
        for (const [table, sql] of BUILD_TRACES) {
          if (queries.get(HAS_TABLE, table) === undefined) continue
          const found = queries.get(sql, derivation, output)
          if (found !== undefined) return found
        }
        return undefined
      })
      if (row === undefined) return undefined
      return parsed(() => {
        const outPath = baseNameOf(parseStorePath(String(row[0]), storeDir))
        return Buffer.from(formatBuildTrace({ outPath, signatures: signaturesOf(row[1]) }))
      })
    },

    async debugInfo(buildId) {
      if (!/^[0-9a-f]{40}$/.test(buildId)) return undefined
      const member = `lib/debug/.build-id/${buildId.slice(0, 2)}/${buildId.slice(2)}.debug`
      const outputs = await debugOutputs()
      for (const storePath of [...outputs].reverse()) {
        const root = `${physicalDir}/${baseNameOf(storePath)}`
        const file = `${root}/${member}`
        if ((await orAbsent(() => lstat(file))) === undefined) continue
        if (!(await isFileInside(root, member))) continue
        if (options.find(hashPartOf(storePath)) !== undefined) return { storePath, member }
      }
      return undefined
    },
  }
}
