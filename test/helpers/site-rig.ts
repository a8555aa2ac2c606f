import type { Test } from 'tap'
import { createPairingNet, openHost, type TestHost } from './pairing.ts'

export const NIX_KEY = `lab-1:${Buffer.alloc(32, 7).toString('base64')}`
export const HOUR_MS = 3_600_000

/** Hosts on one network, the first of which has made the site "lab". */
export async function site(t: Test, ...names: string[]) {
  const net = createPairingNet()
  const hosts = new Map<string, TestHost>()
  const add = async (name: string, options = {}) => {
    const host = await openHost(t, name, { addresses: () => [net.addressOf(name)], ...options })
    hosts.set(name, host)
    net.put(name, host.room)
    return host
  }
  const transport = (host: TestHost) => net.transport(() => host.room.key)
  const join = (host: TestHost, code: string, options = {}) =>
    host.room.join(code, transport(host), [], options)
  /** What gossip does: everybody hears everybody's list until nobody says anything new. */
  const gossip = (...some: TestHost[]) => {
    for (let round = 0; round < 3; round++) {
      for (const from of some)
        for (const to of some) to.room.offer(from.room.list() ?? Buffer.alloc(0))
    }
  }
  for (const name of names) await add(name)
  const [first] = hosts.values()
  const recovery = first?.room.init('lab') ?? []
  for (const host of [...hosts.values()].slice(1)) {
    await join(host, first?.room.invite().code ?? '')
  }
  return { net, add, join, transport, gossip, recovery, hosts: [...hosts.values()] }
}
export const names = ({ room }: TestHost) =>
  room
    .members()
    .filter(({ state }) => state === 'member')
    .map(({ name }) => name)
