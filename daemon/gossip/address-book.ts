import { isIPv4 } from 'node:net'
import type { PeerAddress, PeerKey } from '../site.ts'

/** Addresses kept for one host: where it was met, and what was said since. */
const ADDRESSES_PER_HOST = 4
/** Hosts kept that are no members: anybody can say on the LAN that it is somebody. */
const STRANGERS_LIMIT = 256

interface Entry {
  /** Where a handshake proved it to be: no hearsay pushes it out. */
  proven: PeerAddress | undefined
  /** Newest first. */
  sighted: PeerAddress[]
}

const same = (a: PeerAddress, b: PeerAddress): boolean => a.host === b.host && a.port === b.port

/** Where hosts may be, newest first: bounded, whatever is shouted on the LAN. */
export interface AddressBook {
  sighted(key: PeerKey, address: PeerAddress): void
  proven(key: PeerKey, address: PeerAddress): void
  /** At most {@link ADDRESSES_PER_HOST}, the proven one first. */
  of(key: PeerKey): readonly PeerAddress[]
  keys(): readonly PeerKey[]
}

export function createAddressBook(isMember: (key: PeerKey) => boolean): AddressBook {
  const entries = new Map<PeerKey, Entry>()

  const entryOf = (key: PeerKey): Entry => {
    const known = entries.get(key)
    if (known !== undefined) return known
    const entry: Entry = { proven: undefined, sighted: [] }
    entries.set(key, entry)
    if (!isMember(key)) dropOldestStranger()
    return entry
  }

  const dropOldestStranger = () => {
    const strangers = [...entries.keys()].filter(key => !isMember(key))
    for (const key of strangers.slice(0, Math.max(0, strangers.length - STRANGERS_LIMIT))) {
      entries.delete(key)
    }
  }

  return {
    sighted(key, address) {
      // The DHT below speaks IPv4 only.
      if (!isIPv4(address.host) || address.port === 0) return
      const entry = entryOf(key)
      entry.sighted = [address, ...entry.sighted.filter(one => !same(one, address))].slice(
        0,
        ADDRESSES_PER_HOST,
      )
    },
    proven(key, address) {
      if (isIPv4(address.host)) entryOf(key).proven = address
    },
    of(key) {
      const { proven, sighted = [] } = entries.get(key) ?? {}
      if (proven === undefined) return sighted
      return [proven, ...sighted.filter(one => !same(one, proven))].slice(0, ADDRESSES_PER_HOST)
    },
    keys: () => [...entries.keys()],
  }
}
