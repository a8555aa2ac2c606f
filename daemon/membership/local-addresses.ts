import { networkInterfaces } from 'node:os'
import type { PeerAddress } from '../site.ts'

/** Interfaces that reach no other machine, most likely: bridges and virtual links of containers. Named last in a code. */
const VIRTUAL = /^(?:docker|br-|veth|virbr|cni|flannel|lxc|podman|tun|tap|wg)/

/** Addresses that mean nothing on another machine without knowing a link there. */
const LINK_LOCAL_V6 = /^fe[89ab]/i

/** Where other machines may reach that port here, the likeliest first: real links before virtual ones, IPv4 before IPv6. */
export function localAddresses(port: number, interfaces = networkInterfaces()): PeerAddress[] {
  const found = Object.entries(interfaces).flatMap(([name, list = []]) =>
    list
      .filter(({ internal, address }) => !internal && !LINK_LOCAL_V6.test(address))
      .map(({ address, family }) => ({
        address: { host: address, port },
        rank: (VIRTUAL.test(name) ? 2 : 0) + (family === 'IPv6' ? 1 : 0),
      })),
  )
  return found.sort((a, b) => a.rank - b.rank).map(({ address }) => address)
}
