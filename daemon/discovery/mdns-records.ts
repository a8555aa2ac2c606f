import { parsePeerKey, type PeerKey } from '../site.ts'

// What an mDNS packet says of services that concern us. Pure. The names in it are data of strangers: only the port and the
// key are taken, the address is the packet's own sender.
//
//   <name>._narwharf._tcp.local   SRV port    TXT v=1 pk=<64 hex digits>
//   <name>._nix-serve._tcp.local  SRV port    TXT pk=<64 hex digits>, only where a narwharf serves it

/** Version of what hosts of a site speak to one another; raised only when older ones could not understand it. */
export const SITE_VERSION = '1'

/** The types of service looked for, as bonjour wants them: without underscore and protocol. */
export const SERVICE_TYPES = ['narwharf', 'nix-serve'] as const
export type ServiceType = (typeof SERVICE_TYPES)[number]

/** Services read from one packet: a host announces one of each type. */
export const SERVICES_PER_PACKET_MAX = 16

/** The DNS name that is asked for a type of service. */
export const serviceDomain = (type: ServiceType): string => `_${type}._tcp.local`

/** A record as dns-packet decodes it; what stands in `data` depends on the type. */
export interface MdnsRecord {
  readonly name: string
  readonly type: string
  readonly ttl?: number
  readonly data: unknown
}

/** A packet as multicast-dns hands it on. */
export interface MdnsPacket {
  readonly answers: readonly MdnsRecord[]
  readonly additionals: readonly MdnsRecord[]
}

/** A service that came, or is still there. */
export interface SeenService {
  readonly type: ServiceType
  /** Full name, lower case: what a goodbye names. */
  readonly name: string
  readonly port: number
  readonly key: PeerKey | undefined
}

/** What a packet says. */
export interface ServiceNews {
  readonly seen: readonly SeenService[]
  /** Full names of services that say goodbye. */
  readonly gone: readonly string[]
}

const typeOf = (name: string): ServiceType | undefined =>
  SERVICE_TYPES.find(type => name.endsWith(`.${serviceDomain(type)}`))

const portOf = (data: unknown): number | undefined => {
  const port = (data as { readonly port?: unknown } | null)?.port
  return typeof port === 'number' && port >= 1 && port <= 65535 ? port : undefined
}

/** The values of a TXT record, first of each name (RFC 6763, 6.4); undefined where it is not a list of strings. */
function textOf(data: unknown): ReadonlyMap<string, string> {
  const values = new Map<string, string>()
  for (const entry of Array.isArray(data) ? data : []) {
    const text = Buffer.isBuffer(entry) ? entry.toString('latin1') : ''
    const equals = text.indexOf('=')
    if (equals < 1) continue
    const name = text.slice(0, equals).toLowerCase()
    if (!values.has(name)) values.set(name, text.slice(equals + 1))
  }
  return values
}

/** Reads a response; whatever does not make sense is as if it were not there. */
export function readServices(packet: MdnsPacket): ServiceNews {
  const records = [...packet.answers, ...packet.additionals].map(record => ({
    ...record,
    name: record.name.toLowerCase(),
  }))
  const seen: SeenService[] = []
  const gone = new Set<string>()
  for (const { name, type: recordType, ttl, data } of records) {
    if (ttl === 0 && recordType === 'PTR' && typeof data === 'string') gone.add(data.toLowerCase())
    if (recordType !== 'SRV' || seen.length + gone.size >= SERVICES_PER_PACKET_MAX) continue
    const type = typeOf(name)
    const port = portOf(data)
    if (type === undefined) continue
    if (ttl === 0) {
      gone.add(name)
      continue
    }
    if (port === undefined || seen.some(service => service.name === name)) continue
    const text = textOf(records.find(other => other.type === 'TXT' && other.name === name)?.data)
    const key = parsePeerKey(text.get('pk') ?? '')
    if (type === 'narwharf' && (key === undefined || text.get('v') !== SITE_VERSION)) continue
    seen.push({ type, name, port, key })
  }
  return { seen, gone: [...gone].filter(name => typeOf(name) !== undefined) }
}
