import type { PeerKey } from '../site.ts'
import { createGuardedSocket } from './guarded-socket.ts'
import { onLink, type Link } from './links.ts'
import {
  SERVICE_TYPES,
  SITE_VERSION,
  readServices,
  serviceDomain,
  type MdnsRecord,
  type ServiceNews,
} from './mdns-records.ts'
import { createPacketGate, type ReadingBudget } from './packet-gate.ts'
import type { Announcement, MakeResponder, Mdns, OutgoingMdns, Sent } from './responder.ts'

/** How often neighbours are asked. All times in ms. */
export interface QueryTimes {
  /** The second question comes this soon: one packet is easily lost where an interface just came up. */
  readonly firstMs: number
  /** At the start: a switch may not forward for the first 30 s (spanning tree). */
  readonly quickMs: number
  readonly quickRounds: number
  /** Later, between these two at random: for what was lost, and to renew what would age out. */
  readonly slowMs: readonly [from: number, to: number]
}

/** What this host says of itself. */
export interface OwnServices {
  readonly key: PeerKey
  /** First label of its names on the LAN. */
  readonly label: string
  readonly port: number
  /** Set where Nix clients of the LAN may use this host's cache. */
  readonly httpPort: number | undefined
}

/** What {@link createMdnsLink} is told. */
export interface MdnsLinkOptions {
  readonly link: Link
  readonly own: OwnServices
  readonly makeResponder: MakeResponder
  readonly budget: ReadingBudget
  readonly times: QueryTimes
  /** Hears of services of others and their goodbyes. */
  readonly onNews: (news: ServiceNews, from: string) => void
  /** Hears of every packet or send that failed: many, and mostly somebody else's fault. */
  readonly onTrouble: (problem: string) => void
  readonly now: () => number
  readonly random: () => number
}

/** mDNS on one interface address, from its making until `close`. */
export interface MdnsLink {
  readonly link: Link
  /** Why nobody can be heard or asked here; undefined while it works. */
  readonly problem: string | undefined
  /** The socket is of no use: make a new one. */
  readonly broken: boolean
  /** Packets not read as there were too many. */
  readonly dropped: number
  /** Asks again soon, and more often for a while: somebody was lost. */
  askAgain(): void
  /** Says goodbye. */
  close(): Promise<void>
}

/** Rounds of quick questions after somebody was lost. */
const AGAIN_ROUNDS = 3

/** A goodbye that has not been sent by then never will. */
const GOODBYE_LIMIT_MS = 500

const QUESTIONS = SERVICE_TYPES.map(type => ({ name: serviceDomain(type), type: 'PTR' }))

const announcementsOf = ({ key, label, port, httpPort }: OwnServices): Announcement[] => {
  // A host name of our own: the machine's is avahi's or systemd-resolved's to answer for.
  const common = { name: label, host: `${label}.local`, probe: false, disableIPv6: true } as const
  const services = [
    { ...common, type: 'narwharf', port, txt: { v: SITE_VERSION, pk: key } },
    { ...common, type: 'nix-serve', port: httpPort ?? 0, txt: { pk: key } },
  ]
  // A port that the system is yet to choose is no place to go to.
  return services.filter(service => service.port !== 0)
}

/** bonjour puts the addresses of all interfaces into every answer: on this LAN only this one leads anywhere. */
function sayOnlyAddress(mdns: Mdns, address: string): void {
  const respond = mdns.respond.bind(mdns)
  const isTrue = ({ type, data }: MdnsRecord): boolean => type !== 'A' || data === address
  mdns.respond = (message: OutgoingMdns, ...rest) =>
    'answers' in message
      ? respond(
          {
            answers: message.answers.filter(isTrue),
            additionals: (message.additionals ?? []).filter(isTrue),
          },
          ...rest,
        )
      : respond(message.filter(isTrue), ...rest)
}

/** Speaks mDNS on one address: announces this host, asks for others, tells of what it hears. Never throws, whatever comes. */
export function createMdnsLink(options: MdnsLinkOptions): MdnsLink {
  const { link, own, budget, times, onNews, onTrouble, now, random } = options
  let problem: string | undefined
  let broken = false
  let closing: Promise<void> | undefined
  let timer: NodeJS.Timeout | undefined
  let round = 0
  let soon = false

  const gate = createPacketGate({
    labels: [...SERVICE_TYPES.map(type => `_${type}`), '_services', own.label],
    isNeighbour: address => onLink(link, address),
    budget,
    now,
  })
  const socket = createGuardedSocket({
    gate,
    budget,
    now,
    onPacketError: error => onTrouble(`a packet could not be read: ${String(error)}`),
  })
  const onWarning = (error: Error): void => onTrouble(error.message)
  const responder = options.makeResponder(
    { interface: link.address, bind: '0.0.0.0', socket },
    onWarning,
  )
  const { mdns } = responder.server

  const sent: Sent = error => {
    if (broken) return
    problem = error ? `cannot send: ${error.message}` : undefined
    if (error) onTrouble(problem ?? '')
  }
  const waitMs = (): number => {
    if (round === 1) return times.firstMs
    if (round <= times.quickRounds) return times.quickMs
    const [from, to] = times.slowMs
    return from + (to - from) * random()
  }
  const ask = (): void => {
    round++
    soon = false
    mdns.query([...QUESTIONS], sent)
    askIn(waitMs())
  }
  const askIn = (ms: number): void => {
    clearTimeout(timer)
    if (!broken && closing === undefined) timer = setTimeout(ask, ms).unref()
  }

  mdns.on('warning', onWarning)
  mdns.on('error', error => {
    problem = error.message
    broken = true
    onTrouble(error.message)
  })
  mdns.on('response', (packet, { address }) => onNews(readServices(packet), address))
  mdns.once('ready', ask)
  sayOnlyAddress(mdns, link.address)
  for (const announcement of announcementsOf(own)) responder.publish(announcement)

  const sayGoodbye = (): Promise<void> =>
    new Promise(resolve => {
      const limit = setTimeout(resolve, GOODBYE_LIMIT_MS)
      responder.unpublishAll(() => {
        clearTimeout(limit)
        resolve()
      })
    })

  const end = async (): Promise<void> => {
    clearTimeout(timer)
    if (!broken) await sayGoodbye()
    // A socket that never came to be cannot be closed either.
    await new Promise<void>(resolve => responder.destroy(resolve)).catch(() => {})
  }

  return {
    link,
    get problem() {
      return problem
    },
    get broken() {
      return broken
    },
    get dropped() {
      return gate.dropped
    },
    askAgain() {
      // Many may be lost at once; one question finds them all.
      if (soon) return
      soon = true
      round = Math.min(round, Math.max(1, times.quickRounds - AGAIN_ROUNDS))
      askIn(times.firstMs * random())
    },
    close: () => (closing ??= end()),
  }
}
