import type { NetworkInterfaceInfo } from 'node:os'

// Which of the machine's addresses stand on a LAN where mDNS can be spoken. Pure: the caller asks the system.

/** Addresses that mDNS is spoken on at most: each costs a socket, and a host of containers has hundreds of bridges. */
export const LINKS_MAX = 16

/** One IPv4 address of one interface. */
export interface Link {
  readonly name: string
  readonly address: string
  readonly netmask: string
}

/** What {@link usableLinks} is told. */
export interface LinkChoice {
  /** Interfaces to use; empty: every one. */
  readonly interfaces: readonly string[]
  /** Takes 127.0.0.1 as well. */
  readonly loopback: boolean
}

const toNumber = (address: string): number =>
  address.split('.').reduce((number, part) => number * 256 + Number(part), 0)

/** A network of one address (a tunnel, WireGuard) has no neighbours to hear. */
const HOST_MASK = '255.255.255.255'

/** Whether an address is a neighbour's on that link. */
export function onLink({ address, netmask }: Link, other: string): boolean {
  const mask = toNumber(netmask)
  return (toNumber(address) & mask) === (toNumber(other) & mask)
}

/** The links of `os.networkInterfaces()`, which lists only interfaces that are up and have a carrier; at most {@link LINKS_MAX}. */
export function usableLinks(
  all: NodeJS.Dict<NetworkInterfaceInfo[]>,
  { interfaces, loopback }: LinkChoice,
): readonly Link[] {
  const links: Link[] = []
  for (const [name, addresses = []] of Object.entries(all)) {
    if (interfaces.length > 0 && !interfaces.includes(name)) continue
    for (const { family, internal, address, netmask } of addresses) {
      if (family !== 'IPv4' || netmask === HOST_MASK || (internal && !loopback)) continue
      links.push({ name, address, netmask })
    }
  }
  return links.slice(0, LINKS_MAX)
}

/** Changes when anything of the link does: then its socket has to be made anew. */
export const linkId = ({ name, address, netmask }: Link): string => `${name} ${address}/${netmask}`
