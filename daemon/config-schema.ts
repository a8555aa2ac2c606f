import { isAbsolute, resolve } from 'node:path'
import { z } from 'zod'
import { parseRate, parseSize, parseWindow } from './config-values.ts'
import { parsePeerKey, type PeerKey } from './site.ts'

// What may stand in the configuration file: keys, values, defaults. What depends on the machine is filled in by config.ts.

const absolutePath = z
  .string()
  .refine(isAbsolute, 'must be an absolute path')
  .refine(path => !path.includes('\0'), 'must not contain a zero byte')
  .transform(path => resolve(path))

const port = z.int('must be a whole number').min(0).max(65535)

const hostName = z
  .string()
  .regex(
    /^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/,
    'must be letters, digits, ".", "_" and "-", at most 63',
  )

/** `name:base64` with 32 bytes behind the colon, as `nix-store --generate-binary-cache-key` writes it. */
const publicKey = z
  .string()
  .regex(/^[^\s:]+:[A-Za-z0-9+/]{43}=$/, 'must be a public key, name:base64 with 32 bytes')

/** A string that a parser turns into a value, or refuses with that message. */
const parsed = <In extends string | number, Out>(
  input: z.ZodType<In, In>,
  parse: (text: In) => Out | undefined,
  message: string,
) =>
  input.transform((text, context): Out => {
    const value = parse(text)
    if (value !== undefined) return value
    context.issues.push({ code: 'custom', message, input: text })
    return z.NEVER
  })

/** RFC 1035 has 253 characters for a name; an IPv6 address may name its interface (RFC 4007, `fe80::1%eth0`). */
const PEER =
  /^(\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]{1,15})?\]|[A-Za-z0-9._-]{1,253}):(\d{1,5})#([0-9A-Fa-f]{64})$/

/** Where a peer is and who it must prove to be; `host` is an address or a name for the system's resolver. */
export interface StaticPeer {
  readonly host: string
  readonly port: number
  readonly publicKey: PeerKey
}

function parsePeer(text: string): StaticPeer | undefined {
  const [, host, number, digits] = PEER.exec(text) ?? []
  const key = parsePeerKey(digits ?? '')
  if (host === undefined || key === undefined) return undefined
  const peerPort = Number(number)
  return peerPort >= 1 && peerPort <= 65535
    ? { host: host.replace(/^\[|\]$/g, ''), port: peerPort, publicKey: key }
    : undefined
}

const SIZE_WANTED = 'must be a size like "200GiB" or "500GB", or a whole number of bytes'

const upstream = z.strictObject({
  url: z.url({ protocol: /^(https?|file)$/, error: 'must be an http, https or file URL' }),
  /** Bytes per second. */
  rate: parsed(z.string(), parseRate, 'must be a rate like "64kbit" or "8KiB/s"').optional(),
  window: parsed(
    z.string(),
    parseWindow,
    'must be a span of the day like "22:00-06:00"',
  ).optional(),
})

/** Keys whose defaults depend on where and as whom the daemon runs are optional here and filled in by `loadConfig`. */
export const configSchema = z.strictObject({
  stateDir: absolutePath.optional(),
  hostName: hostName.optional(),
  http: z
    .strictObject({
      host: z
        .string()
        .regex(/^[A-Za-z0-9.:_-]{1,253}$/, 'must be an address or a host name')
        .default('127.0.0.1'),
      port: port.default(6279),
      compression: z.enum(['auto', 'none', 'zstd']).default('auto'),
      /** Priority of nix-cache-info: lower is asked first; cache.nixos.org says 40. */
      priority: z.int('must be a whole number').min(1).max(1000).default(30),
    })
    .prefault({}),
  controlSocket: absolutePath.optional(),
  store: z
    .strictObject({
      enable: z.boolean().default(true),
      root: absolutePath.default('/'),
      dir: absolutePath.default('/nix/store'),
      db: absolutePath.optional(),
    })
    .prefault({}),
  cache: z
    .strictObject({
      dir: absolutePath.optional(),
      /** More flat binary caches to serve, read only. */
      extraDirs: z.array(absolutePath).default([]),
      /** Bytes. */
      maxSize: parsed(
        z.union([z.string(), z.number()], SIZE_WANTED),
        parseSize,
        SIZE_WANTED,
      ).prefault('200GiB'),
      keepShipments: z.boolean().default(false),
      /** What clients get from peers and upstreams is kept; `keepShipments` does so as well. */
      tee: z.boolean().default(false),
    })
    .prefault({}),
  network: z
    .strictObject({
      port: port.default(6280),
      mdns: z.boolean().default(true),
      /** Empty: every interface. */
      interfaces: z.array(z.string().min(1).max(15)).default([]),
      peers: z
        .array(
          parsed(
            z.string(),
            parsePeer,
            'must look like host:port#key, the key being the 64 hex digits of its public key',
          ),
        )
        .default([]),
      /** Other programs' binary caches on the LAN (`_nix-serve._tcp`) are holders. */
      nixServe: z.boolean().default(true),
    })
    .prefault({}),
  share: z
    .strictObject({
      withPeers: z.enum(['all', 'signed', 'none']).default('all'),
      withLan: z.enum(['all', 'signed', 'none']).default('signed'),
      /** Patterns of store path names that never leave the host. */
      deny: z.array(z.string().min(1)).default([]),
    })
    .prefault({}),
  trust: z
    .strictObject({
      publicKeys: z
        .array(publicKey)
        .default(['cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=']),
      members: z.boolean().default(true),
      /** Which paths of the own store need no signature: those it built itself, or all. */
      store: z.enum(['ultimate', 'all']).default('ultimate'),
      secretKeyFile: absolutePath.optional(),
    })
    .prefault({}),
  upstreams: z.array(upstream).default([]),
  drives: z
    .strictObject({
      watch: z.boolean().default(true),
      under: z.array(absolutePath).default(['/media', '/run/media', '/mnt']),
      merge: z.enum(['all', 'signed', 'none']).default('signed'),
    })
    .prefault({}),
  log: z
    .strictObject({
      level: z.enum(['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent']).default('info'),
    })
    .prefault({}),
})

/** Every key of the configuration as a path; `*` stands for a list's place. */
export const CONFIG_KEYS: readonly (readonly string[])[] = keysOf(configSchema)

function keysOf(type: z.core.$ZodType, path: readonly string[] = []): string[][] {
  if (type instanceof z.ZodObject) {
    return Object.entries(type.shape).flatMap(([name, inner]) => [
      [...path, name],
      ...keysOf(inner as z.core.$ZodType, [...path, name]),
    ])
  }
  if (type instanceof z.ZodArray) return keysOf(type.element, [...path, '*'])
  if (
    type instanceof z.ZodPrefault ||
    type instanceof z.ZodDefault ||
    type instanceof z.ZodOptional
  ) {
    return keysOf(type.def.innerType, path)
  }
  return []
}

/** The file's values with the defaults that depend on nothing filled in. */
export type ParsedConfig = z.output<typeof configSchema>
