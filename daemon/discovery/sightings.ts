import type { PeerCandidate, PeerKey } from '../site.ts'

// Who was sighted where: a table that no flood can grow, and in which members outlive strangers.

/** Sightings remembered, all together: some ten times the hosts of a big site. */
export const SIGHTINGS_MAX = 1024

/** Addresses remembered of one key: a host has a few interfaces, and old addresses age out. */
export const ADDRESSES_PER_KEY_MAX = 8

/** Keys that one address may announce by mDNS: hosts share one only when several daemons run on a machine. */
export const KEYS_PER_ADDRESS_MAX = 16

type Source = PeerCandidate['source']

interface Sighting {
  readonly key: PeerKey
  readonly host: string
  readonly port: number
  /** Which source said so last. */
  source: Source
  seenAt: number
  /** When it was last handed out as news. */
  saidAt: number
  /** Ms of `now` until which each source stands by it. */
  readonly until: Map<Source, number>
  /** Service name of the mDNS announcement, which a goodbye names. */
  serviceName: string | undefined
}

/** What {@link createSightings} is told. */
export interface SightingsOptions {
  /** Members are forgotten last. */
  readonly isMember: (key: PeerKey) => boolean
  /** Monotonic ms: clocks of hosts need not be right, and this one may be set. */
  readonly now: () => number
  /** How long the same sighting is no news, ms: an answer to each of ten hosts' queries is heard by all. */
  readonly quietMs: number
}

/** The table of one host. */
export interface Sightings {
  /** Notes a sighting that holds for `ttlMs`; true when it is to be told, as it is new or was not told for a while. */
  see(candidate: PeerCandidate, ttlMs: number, serviceName?: string): boolean
  /** A service said goodbye from that address: true when it was known. */
  goodbye(serviceName: string, host: string): boolean
  /** Drops what nobody stands by any more. */
  expire(): void
  /** What is known, newest sighting first. */
  list(): readonly PeerCandidate[]
  /** What a source stands by and nobody has said for `forMs`. */
  quiet(source: Source, forMs: number): readonly PeerCandidate[]
}

const candidateOf = ({ key, host, port, source }: Sighting): PeerCandidate => ({
  key,
  address: { host, port },
  source,
})

/** An empty table. */
export function createSightings({ isMember, now, quietMs }: SightingsOptions): Sightings {
  // In the order of the last sighting: the first is the one silent for longest.
  const table = new Map<string, Sighting>()

  const drop = (id: string, sighting: Sighting, source: Source): void => {
    sighting.until.delete(source)
    if (sighting.until.size === 0) table.delete(id)
  }

  /** Removes the one silent for longest among those that match, strangers first, when there are `max` of them. */
  const makeRoom = (max: number, matches: (sighting: Sighting) => boolean): void => {
    let count = 0
    let first: string | undefined
    let stranger: string | undefined
    for (const [id, sighting] of table) {
      if (!matches(sighting)) continue
      count++
      if (sighting.until.has('static')) continue
      first ??= id
      if (stranger === undefined && !isMember(sighting.key)) stranger = id
    }
    const victim = stranger ?? first
    if (count >= max && victim !== undefined) table.delete(victim)
  }

  const add = (candidate: PeerCandidate): Sighting => {
    const { key, source, address } = candidate
    makeRoom(ADDRESSES_PER_KEY_MAX, sighting => sighting.key === key)
    if (source === 'mdns') {
      makeRoom(
        KEYS_PER_ADDRESS_MAX,
        ({ host, until }) => host === address.host && until.has('mdns'),
      )
    }
    if (table.size >= SIGHTINGS_MAX) makeRoom(SIGHTINGS_MAX, () => true)
    return {
      key,
      ...address,
      source,
      seenAt: now(),
      saidAt: -Infinity,
      until: new Map(),
      serviceName: undefined,
    }
  }

  return {
    see(candidate, ttlMs, serviceName) {
      const { key, address, source } = candidate
      const id = `${key} ${address.host} ${address.port}`
      const time = now()
      const sighting = table.get(id) ?? add(candidate)
      table.delete(id)
      table.set(id, sighting)
      sighting.source = source
      sighting.seenAt = time
      sighting.until.set(source, time + ttlMs)
      sighting.serviceName = serviceName ?? sighting.serviceName
      if (time - sighting.saidAt < quietMs) return false
      sighting.saidAt = time
      return true
    },
    goodbye(serviceName, host) {
      for (const [id, sighting] of table) {
        if (sighting.serviceName !== serviceName || sighting.host !== host) continue
        if (!sighting.until.has('mdns')) return false
        drop(id, sighting, 'mdns')
        return true
      }
      return false
    },
    expire() {
      const time = now()
      for (const [id, sighting] of table) {
        for (const [source, until] of sighting.until) {
          if (until <= time) drop(id, sighting, source)
        }
      }
    },
    list: () => [...table.values()].map(candidateOf).reverse(),
    quiet: (source, forMs) =>
      [...table.values()]
        .filter(({ until, seenAt }) => until.has(source) && now() - seenAt >= forMs)
        .map(sighting => ({ ...candidateOf(sighting), source })),
  }
}
