import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { createEventBus, type EventBus } from '../../daemon/events.ts'
import {
  createMembership,
  type Membership,
  type MembershipOptions,
} from '../../daemon/membership/membership.ts'
import type { PairingTransport } from '../../daemon/membership/pairing-transport.ts'
import type { PeerAddress, PeerCandidate, PeerKey } from '../../daemon/site.ts'
import { tempDir, type Scope } from './scope.ts'

/** Clocks that stand still until told; the two can be moved apart. */
export function handClock() {
  let [wall, steady] = [1_700_000_000_000, 5000]
  return {
    now: () => wall,
    monotonic: () => steady,
    /** Time passes. */
    pass(ms: number) {
      wall += ms
      steady += ms
    },
    /** Somebody sets the wall clock. */
    setBack(ms: number) {
      wall -= ms
    },
    /** The machine starts anew: its monotonic clock begins again. */
    restart() {
      steady = 0
    },
  }
}

/** A host of a test: its room, its state directory and what it says. */
export interface TestHost {
  readonly room: Membership
  readonly stateDir: string
  readonly events: EventBus
  readonly changes: () => number
  readonly clock: ReturnType<typeof handClock>
  /** Closes and opens it anew on the same directory. */
  restart(): Promise<TestHost>
}

/** Opens a host's membership; the address of host `name` in {@link createPairingNet} is `name`'s. */
export async function openHost(
  scope: Scope,
  name: string,
  options: Partial<MembershipOptions> & { clock?: ReturnType<typeof handClock> } = {},
): Promise<TestHost> {
  const stateDir = options.stateDir ?? tempDir(scope, `member-${name}`)
  const events = createEventBus()
  const clock = options.clock ?? handClock()
  let changes = 0
  events.on('members:changed', () => void changes++)
  const machineIdFile = join(stateDir, 'no-machine-id')
  const own = { hostName: name, machineIdFile, ...options, stateDir, events, clock }
  const room = createMembership(own)
  await room.open()
  scope.teardown(() => room.close())
  return {
    room,
    stateDir,
    events,
    clock,
    changes: () => changes,
    async restart() {
      await room.close()
      clock.restart()
      return openHost(scope, name, { ...options, stateDir, clock })
    },
  }
}

/** Noise connections in memory: each proves both keys and has a handshake hash of its own. */
export function createPairingNet() {
  const hosts = new Map<string, Membership>()
  const addressOf = (name: string): PeerAddress => ({ host: '192.0.2.1', port: portOf(name) })
  const ports: string[] = []
  const portOf = (name: string): number => {
    if (!ports.includes(name)) ports.push(name)
    return ports.indexOf(name) + 1
  }
  const exchanges: { readonly request: Buffer; readonly handshakeHash: Buffer }[] = []
  return {
    addressOf,
    /** Every request that was sent, as a wire tap sees it. */
    exchanges,
    put: (name: string, room: Membership) => void hosts.set(name, room),
    cut: (name: string) => void hosts.delete(name),
    candidate: (name: string, key: PeerKey): PeerCandidate => ({
      key,
      address: addressOf(name),
      source: 'mdns',
    }),
    /** What `own` sends and gets. */
    transport: (own: () => PeerKey): PairingTransport => ({
      async exchange({ port }, remoteKey, makeRequest) {
        const room = hosts.get(ports[port - 1] ?? '')
        if (room === undefined) throw new Error('nobody answers')
        if (room.key !== remoteKey) throw new Error('somebody else answers')
        const handshakeHash = randomBytes(64)
        const request = makeRequest(handshakeHash)
        exchanges.push({ request, handshakeHash })
        return room.admit(request, handshakeHash, own())
      },
    }),
  }
}
