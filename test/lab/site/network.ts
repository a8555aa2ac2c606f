import { run } from '../../helpers/run.ts'
import { startSlowLink, type Cable, type SlowLink } from './slow-link.ts'

// Networks without a router: bridges in a namespace of their own (the "switch"), a namespace per host, a cable (veth) per host and
// network. Nothing of it is seen by the machine's own network. No default route, no DNS.

/** The network that hosts are on unless told otherwise; the name of the host's device too. */
export const LAN = 'lan'

/** Bits that a switch port takes in above its rate, and how long a frame waits: about what a switch buffers. */
const BUCKET = ['burst', '256kb', 'latency', '50ms']

/** Where addresses begin that {@link Network.setAddress} gives out: above those of the start. */
const LATER_ADDRESSES = 100

export interface Network {
  /** The namespace of a host, for `ip netns exec`. */
  netns(host: string): string
  /** A host's address on a network. */
  address(host: string, network?: string): string
  /** Pulls the host's cable: both ends lose their carrier. */
  cut(host: string, network?: string): Promise<void>
  mend(host: string, network?: string): Promise<void>
  /**
   * Breaks a network between switches, so that hosts of different islands see nothing of one another though their cables are in.
   * Hosts that are named in none stay on the island of the first.
   */
  split(islands: readonly (readonly string[])[], network?: string): Promise<void>
  /** Makes one network of the islands again. */
  merge(network?: string): Promise<void>
  /** Gives the host another address, as a DHCP server may: the next one that was never used, which is returned. */
  setAddress(host: string, network?: string): Promise<string>
  /** Rate of the host's cable, each direction, bits per second; undefined: as fast as it goes. */
  setRate(host: string, bitsPerSecond: number | undefined, network?: string): Promise<void>
  /** Delay, jitter and loss of the host's cable, each direction; undefined: a good cable again. Needs Python. */
  setCable(host: string, cable: Partial<Cable> | undefined, network?: string): Promise<void>
  /** Whether a network's switch passes multicast on: many Wi-Fi access points and managed switches do not. */
  setMulticast(passes: boolean, network?: string): Promise<void>
  /** Bytes that the host's devices have received and sent since they were made. */
  traffic(host: string, network?: string): Promise<{ received: number; sent: number }>
}

/** A host's end of a network. */
interface Port {
  readonly host: string
  readonly network: string
  /** The switch's device. */
  readonly device: string
  address: string
  bridge: string
  limited: boolean
  slow: SlowLink | undefined
}

/** Makes the namespaces, whose names begin with the prefix: who made the prefix removes them. */
export async function makeNetwork(
  prefix: string,
  hosts: readonly { readonly name: string; readonly networks: readonly string[] }[],
): Promise<Network> {
  const netns = (host: string) => `${prefix}${host}`
  const space = `${prefix}switch`
  const networks = [...new Set(hosts.flatMap(host => host.networks))]
  const ports = hosts.flatMap(({ name, networks: own }, index) =>
    own.map((network): Port => {
      const third = networks.indexOf(network)
      const address = `10.79.${third}.${index + 1}`
      const device = `${name}-${network}`
      return {
        host: name,
        network,
        device,
        address,
        bridge: network,
        limited: false,
        slow: undefined,
      }
    }),
  )
  await lay(
    space,
    networks,
    hosts.map(({ name }) => netns(name)),
    ports,
    netns,
  )

  const inSwitch = (...words: string[]) => run('ip', ['-n', space, ...words])
  const silent = new Set<string>()
  const usedAddresses = new Map(networks.map(network => [network, LATER_ADDRESSES]))
  const find = (host: string, network = LAN): Port => {
    const port = ports.find(each => each.host === host && each.network === network)
    if (port === undefined) throw new Error(`the site has no host ${host} on ${network}`)
    return port
  }
  /** The device on the bridge: the cable's end, or the far end of what delays it. */
  const edge = (port: Port) => port.slow?.far ?? port.device
  const plug = async (port: Port, bridge: string) => {
    port.bridge = bridge
    await inSwitch('link', 'set', edge(port), 'master', bridge)
    await flood(port)
  }
  const flood = (port: Port) =>
    run('bridge', [
      ...['-n', space, 'link', 'set', 'dev', edge(port)],
      ...['mcast_flood', silent.has(port.network) ? 'off' : 'on'],
    ])
  const onNetwork = (network: string) => ports.filter(port => port.network === network)
  const shape = async (port: Port, namespace: string, device: string, rate: number | undefined) => {
    const tc = (...words: string[]) => run('tc', ['-n', namespace, 'qdisc', ...words])
    if (port.limited) await tc('del', 'dev', device, 'root')
    if (rate !== undefined) {
      await tc('add', 'dev', device, 'root', 'tbf', 'rate', `${rate}bit`, ...BUCKET)
    }
  }

  return {
    netns,
    address: (host, network) => find(host, network).address,
    async cut(host, network) {
      await inSwitch('link', 'set', find(host, network).device, 'down')
    },
    async mend(host, network) {
      await inSwitch('link', 'set', find(host, network).device, 'up')
    },
    async split(islands, network = LAN) {
      for (const [index, island] of islands.entries()) {
        const bridge = index === 0 ? network : `${network}.${index}`
        if (index > 0) await makeBridge(space, bridge)
        for (const host of island) await plug(find(host, network), bridge)
      }
    },
    async merge(network = LAN) {
      const away = onNetwork(network).filter(port => port.bridge !== network)
      const bridges = new Set(away.map(({ bridge }) => bridge))
      for (const port of away) await plug(port, network)
      for (const bridge of bridges) await inSwitch('link', 'del', bridge)
    },
    async setAddress(host, network = LAN) {
      const port = find(host, network)
      const last = (usedAddresses.get(network) ?? LATER_ADDRESSES) + 1
      usedAddresses.set(network, last)
      port.address = port.address.replace(/\d+$/, String(last))
      const own = ['-n', netns(host), '-4', 'addr']
      await run('ip', [...own, 'flush', 'dev', network])
      await run('ip', [...own, 'add', `${port.address}/24`, 'brd', '+', 'dev', network])
      return port.address
    },
    async setRate(host, rate, network) {
      const port = find(host, network)
      await shape(port, space, port.device, rate)
      await shape(port, netns(host), port.network, rate)
      port.limited = rate !== undefined
    },
    async setCable(host, cable, network) {
      const port = find(host, network)
      if (cable === undefined) {
        const { slow } = port
        port.slow = undefined
        await plug(port, port.bridge)
        await slow?.close()
        return
      }
      port.slow ??= await startSlowLink(space, port.device, ports.indexOf(port))
      await port.slow.set(cable)
      await plug(port, port.bridge)
    },
    async setMulticast(passes, network = LAN) {
      if (passes) silent.delete(network)
      else silent.add(network)
      for (const port of onNetwork(network)) await flood(port)
    },
    async traffic(host, network = LAN) {
      const { stdout } = await run('ip', ['-n', netns(host), '-j', '-s', 'link', 'show', network])
      type Counts = {
        readonly rx: { readonly bytes: number }
        readonly tx: { readonly bytes: number }
      }
      const [device] = JSON.parse(stdout) as { readonly stats64: Counts }[]
      if (device === undefined) throw new Error(`${host} has no device ${network}`)
      return { received: device.stats64.rx.bytes, sent: device.stats64.tx.bytes }
    },
  }
}

/** A switch without spanning tree (ports pass at once), that floods multicast like a plain one. */
const makeBridge = (space: string, bridge: string) =>
  run('ip', ['-n', space, '-batch', '-'], {
    input: `link add ${bridge} type bridge mcast_snooping 0\nlink set ${bridge} up\n`,
  })

async function lay(
  space: string,
  networks: readonly string[],
  hostSpaces: readonly string[],
  ports: readonly Port[],
  netns: (host: string) => string,
): Promise<void> {
  for (const each of [space, ...hostSpaces]) {
    await run('ip', ['netns', 'add', each])
    await run('ip', ['-n', each, 'link', 'set', 'lo', 'up'])
  }
  for (const network of networks) await makeBridge(space, network)
  for (const { host, network, device, address } of ports) {
    const own = netns(host)
    await run('ip', ['-n', space, '-batch', '-'], {
      input: [
        `link add ${device} type veth peer name ${network} netns ${own}`,
        `link set ${device} master ${network}`,
        `link set ${device} up`,
        '',
      ].join('\n'),
    })
    await run('ip', ['-n', own, '-batch', '-'], {
      input: `addr add ${address}/24 brd + dev ${network}\nlink set ${network} up\n`,
    })
  }
}
