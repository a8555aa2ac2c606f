// Realisations: which store path a content-addressed derivation output came to, as small JSON files of a binary cache.
//
//   realisations/<id>.doi                      Nix 2.4 .. 2.34; id = sha256:<base16 of the derivation's hash>!<output>
//     {"dependentRealisations":{"<id>":"<base name>"},"id":"<id>","outPath":"<base name>","signatures":["name:base64"]}
//   build-trace-v2/<drv base name>/<output>.doi        Nix >= 2.35; the key stands in the file's path only
//     {"outPath":"<base name>","signatures":[{"keyName":"name","sig":"base64"}]}
//
// A signature covers the JSON with sorted keys, without signatures; of a build trace entry
//   {"key":{"drvPath":"<base name>","outputName":"out"},"value":{"outPath":"<base name>"}}
// Sources: NixOS/nix 2.18 src/libstore/realisation.cc; 2.36 realisation.cc, binary-cache-store.cc (makeRealisationPath),
// manual "JSON Formats: Build Trace Entry" (version 3), src/libstore-tests/data/realisation/.
import { isUtf8 } from 'node:buffer'
import { fail, problemOf } from './errors.ts'
import { formatHash, parseHash } from './hash.ts'
import type { Hash } from './hash.ts'
import { isSignature, parseSignature } from './signature.ts'
import { isStoreName, parseBaseName } from './store-path.ts'
import type { BaseName } from './store-path.ts'

/** Bytes of the largest realisation read: room for some thousands of dependent ones, of about 120 bytes each. */
export const REALISATION_MAX_BYTES = 1024 * 1024

/** Most signatures of one realisation: each costs a verification. */
export const REALISATION_SIGNATURES_MAX = 100

/** A derivation output by the hash of its derivation (not its path): the key of the old scheme. */
export interface RealisationId {
  readonly drvHash: Hash
  readonly output: string
}

/** A realisation of the old scheme. */
export interface Realisation {
  readonly id: RealisationId
  readonly outPath: BaseName
  /** Well-formed, `name:base64`, not verified. */
  readonly signatures: readonly string[]
  /** Ids (as {@link formatRealisationId} writes them) and what they came to. */
  readonly dependentRealisations: ReadonlyMap<string, BaseName>
}

/** A derivation output by the derivation's path: the key of the new scheme. */
export interface BuildTraceKey {
  readonly derivation: BaseName
  readonly output: string
}

/** A build trace entry's value. */
export interface BuildTraceEntry {
  readonly outPath: BaseName
  /** Well-formed, `name:base64`, not verified. */
  readonly signatures: readonly string[]
}

const invalid = (problem: string): never => fail('REALISATION_INVALID', { problem })

/** Raises what a field's own parser found as a fault of the realisation. */
function within<T>(read: () => T): T {
  try {
    return read()
  } catch (error) {
    return fail('REALISATION_INVALID', { problem: problemOf(error) }, error)
  }
}

/** Reads `sha256:<hash>!<output>`, the hash in any spelling; throws REALISATION_INVALID. */
export function parseRealisationId(text: string): RealisationId {
  const bang = text.indexOf('!')
  if (bang < 0) return invalid(`id ${text} has no "!"`)
  const output = text.slice(bang + 1)
  if (!isStoreName(output)) invalid(`${output} is no output name`)
  const drvHash = within(() => parseHash(text.slice(0, bang)))
  if (drvHash.algorithm !== 'sha256') invalid(`id ${text} is not by sha256`)
  return { drvHash, output }
}

/** Writes an id as Nix does, `sha256:<base16>!<output>`. */
export const formatRealisationId = ({ drvHash, output }: RealisationId): string =>
  `${formatHash(drvHash, 'base16')}!${output}`

type JsonObject = ReadonlyMap<string, unknown>

/** Own properties only, in a Map: a `__proto__` in hostile JSON is a key like any other. */
function asObject(value: unknown, what: string): JsonObject {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    return invalid(`${what} is not an object`)
  }
  return new Map(Object.entries(value))
}

function parseJson(bytes: Uint8Array): JsonObject {
  if (bytes.length > REALISATION_MAX_BYTES) invalid(`larger than ${REALISATION_MAX_BYTES} bytes`)
  if (!isUtf8(bytes)) invalid('not UTF-8')
  const text = Buffer.from(bytes).toString('utf8')
  return asObject(
    within((): unknown => JSON.parse(text)),
    'it',
  )
}

function asString(value: unknown, what: string): string {
  if (typeof value !== 'string') return invalid(`${what} is not a text`)
  return value
}

const baseNameField = (value: unknown, what: string): BaseName =>
  within(() => parseBaseName(asString(value, what)))

function signaturesField(object: JsonObject): readonly string[] {
  const value = object.get('signatures') ?? []
  if (!Array.isArray(value)) return invalid('signatures is not a list')
  if (value.length > REALISATION_SIGNATURES_MAX) {
    invalid(`more than ${REALISATION_SIGNATURES_MAX} signatures`)
  }
  const signatures = new Set<string>()
  for (const item of value as readonly unknown[]) {
    let text: string
    if (typeof item === 'string') text = item
    else {
      const parts = asObject(item, 'a signature')
      text = `${asString(parts.get('keyName'), 'keyName')}:${asString(parts.get('sig'), 'sig')}`
    }
    // As in a narinfo: a malformed one is left out, another may be good.
    if (isSignature(text)) signatures.add(text)
  }
  return [...signatures]
}

/** Reads a realisation of the old scheme; unknown fields are ignored. Throws REALISATION_INVALID. */
export function parseRealisation(bytes: Uint8Array): Realisation {
  const object = parseJson(bytes)
  const dependent = new Map<string, BaseName>()
  const listed = asObject(object.get('dependentRealisations') ?? {}, 'dependentRealisations')
  for (const [id, outPath] of listed) {
    dependent.set(formatRealisationId(parseRealisationId(id)), baseNameField(outPath, id))
  }
  return {
    id: parseRealisationId(asString(object.get('id'), 'id')),
    outPath: baseNameField(object.get('outPath'), 'outPath'),
    signatures: signaturesField(object),
    dependentRealisations: dependent,
  }
}

const signedFields = ({ id, outPath, dependentRealisations }: Realisation) => ({
  // Nix's JSON writer sorts keys, and the signature is over its text.
  dependentRealisations: Object.fromEntries(
    [...dependentRealisations].sort(([a], [b]) => (a < b ? -1 : 1)),
  ),
  id: formatRealisationId(id),
  outPath,
})

/** Writes a realisation of the old scheme, byte for byte as Nix does. */
export const formatRealisation = (realisation: Realisation): string =>
  JSON.stringify({ ...signedFields(realisation), signatures: realisation.signatures })

/** What a signature of a realisation of the old scheme covers. */
export const realisationFingerprint = (realisation: Realisation): string =>
  JSON.stringify(signedFields(realisation))

/** Reads a build trace entry (Nix >= 2.35), signatures as objects or in the older text form. Throws REALISATION_INVALID. */
export function parseBuildTrace(bytes: Uint8Array): BuildTraceEntry {
  const object = parseJson(bytes)
  return {
    outPath: baseNameField(object.get('outPath'), 'outPath'),
    signatures: signaturesField(object),
  }
}

/** Writes a build trace entry, byte for byte as Nix does. Throws SIGNATURE_INVALID for a malformed signature. */
export const formatBuildTrace = ({ outPath, signatures }: BuildTraceEntry): string =>
  JSON.stringify({
    outPath,
    signatures: signatures.map(parseSignature).map(({ keyName, base64 }) => ({
      keyName,
      sig: base64,
    })),
  })

/** What a signature of a build trace entry covers. */
export const buildTraceFingerprint = (key: BuildTraceKey, { outPath }: BuildTraceEntry): string =>
  JSON.stringify({
    key: { drvPath: key.derivation, outputName: key.output },
    value: { outPath },
  })
