import type { NetworkInterfaceInfo } from 'node:os'
import type { Logger } from 'pino'
import type { Problem } from '../../protocol/api.ts'
import { problemOf } from '../../protocol/errors.ts'
import type { PeerKey } from '../site.ts'
import { linkId, usableLinks, type Link } from './links.ts'
import { createMdnsLink, type MdnsLink, type QueryTimes } from './mdns-link.ts'
import type { ServiceNews } from './mdns-records.ts'
import { createReadingBudget } from './packet-gate.ts'
import type { MakeResponder } from './responder.ts'

/** A DNS label has at most 63 bytes (RFC 1035); 9 are the key's. */
const LABEL_NAME_MAX = 54
const LABEL_KEY_DIGITS = 8

/** Packets dropped in one look at the interfaces from which on the log says so: a rare one is no attack. */
const DROPPED_NOTABLE = 100

/** What {@link createMdnsLinks} is told. */
export interface MdnsLinksOptions {
  readonly key: PeerKey
  readonly hostName: string
  readonly port: number
  readonly httpPort?: number | undefined
  readonly httpHost?: string | undefined
  readonly interfaces: readonly string[]
  readonly loopback: boolean
  readonly makeResponder: MakeResponder
  readonly listInterfaces: () => NodeJS.Dict<NetworkInterfaceInfo[]>
  readonly times: QueryTimes & { readonly pollMs: number; readonly retryMs: number }
  readonly onNews: (news: ServiceNews, from: string) => void
  readonly log: Pick<Logger, 'info' | 'warn' | 'debug'>
  readonly now: () => number
  readonly random: () => number
}

/** mDNS on whatever interfaces the machine has at the time. */
export interface MdnsLinks {
  open(): void
  close(): Promise<void>
  askAgain(): void
  /** IPv4 addresses of this machine, those without mDNS too. */
  addresses(): readonly string[]
  problems(): readonly Problem[]
}

const WILDCARDS: ReadonlySet<string> = new Set(['0.0.0.0', '::'])

/** A label that no other host has: a conflict of names would be settled by one of them falling silent. */
const labelOf = (hostName: string, key: PeerKey): string =>
  `${hostName.replaceAll('.', '-').slice(0, LABEL_NAME_MAX)}-${key.slice(0, LABEL_KEY_DIGITS)}`

/** Keeps one {@link MdnsLink} per usable address, however interfaces come, go and change. */
export function createMdnsLinks(options: MdnsLinksOptions): MdnsLinks {
  const { key, hostName, port, httpPort, httpHost, times, log, now, listInterfaces } = options
  const budget = createReadingBudget(now)
  const label = labelOf(hostName, key)
  const links = new Map<string, MdnsLink>()
  /** Until when an address is left alone whose socket could not be had. */
  const retryAt = new Map<string, number>()
  const closing = new Set<Promise<void>>()
  const droppedBefore = new WeakMap<MdnsLink, number>()
  let timer: NodeJS.Timeout | undefined
  let ownAddresses: readonly string[] = []
  let lookProblem: string | undefined
  let missing: readonly string[] = []

  const start = (link: Link): void => {
    const isServed = httpHost === undefined || WILDCARDS.has(httpHost) || httpHost === link.address
    links.set(
      linkId(link),
      createMdnsLink({
        ...options,
        link,
        own: { key, label, port, httpPort: isServed ? httpPort : undefined },
        budget,
        onTrouble: problem => log.debug({ interface: link.name, problem }, 'mDNS trouble'),
      }),
    )
    log.info({ interface: link.name, address: link.address }, `looking for hosts on ${link.name}`)
  }

  const stop = (id: string, mdnsLink: MdnsLink): void => {
    links.delete(id)
    const closed = mdnsLink.close().finally(() => closing.delete(closed))
    closing.add(closed)
  }

  const list = (): NodeJS.Dict<NetworkInterfaceInfo[]> | undefined => {
    try {
      const all = listInterfaces()
      lookProblem = undefined
      return all
    } catch (error) {
      // What there was may still be there.
      lookProblem = problemOf(error)
      return undefined
    }
  }

  const watchFlood = (mdnsLink: MdnsLink): void => {
    const { dropped, link } = mdnsLink
    const more = dropped - (droppedBefore.get(mdnsLink) ?? 0)
    droppedBefore.set(mdnsLink, dropped)
    if (more < DROPPED_NOTABLE) return
    log.warn({ interface: link.name, dropped: more }, `too many mDNS packets on ${link.name}`)
  }

  const look = (): void => {
    const all = list()
    if (all === undefined) return
    ownAddresses = Object.values(all).flatMap((of = []) => of.map(({ address }) => address))
    missing = options.interfaces.filter(name => all[name] === undefined)
    const wanted = new Map(usableLinks(all, options).map(link => [linkId(link), link]))
    for (const [id, mdnsLink] of links) {
      if (wanted.has(id) && !mdnsLink.broken) {
        watchFlood(mdnsLink)
        continue
      }
      if (mdnsLink.broken) {
        retryAt.set(id, now() + times.retryMs)
        log.warn({ interface: mdnsLink.link.name }, `no mDNS: ${mdnsLink.problem}`)
      }
      stop(id, mdnsLink)
    }
    for (const id of retryAt.keys()) {
      if (!wanted.has(id) || (retryAt.get(id) ?? 0) <= now()) retryAt.delete(id)
    }
    for (const [id, link] of wanted) {
      if (links.has(id) || retryAt.has(id)) continue
      try {
        start(link)
      } catch (error) {
        // No descriptor left, say: the other interfaces and the daemon go on.
        retryAt.set(id, now() + times.retryMs)
        log.warn({ interface: link.name }, `no mDNS: ${problemOf(error)}`)
      }
    }
  }

  const problems = (): Problem[] => {
    const hint = 'hosts of network.peers are found all the same'
    const found = [...links.values()].flatMap(({ link, problem, broken }) =>
      problem === undefined || broken
        ? []
        : [{ what: `mDNS on ${link.name} (${link.address}): ${problem}`, hint }],
    )
    if (lookProblem !== undefined) {
      found.push({
        what: `network interfaces cannot be listed: ${lookProblem}`,
        hint: 'systemd: RestrictAddressFamilies= needs AF_NETLINK',
      })
    }
    for (const name of missing) {
      found.push({
        what: `network.interfaces names ${name}, which is not up`,
        hint: 'ip address shows the names; it is taken as soon as it comes up',
      })
    }
    for (const id of retryAt.keys()) {
      found.push({
        what: `mDNS cannot listen on ${id}`,
        hint: `another program may hold UDP port 5353 alone; ${hint}`,
      })
    }
    return found
  }

  return {
    open() {
      if (timer !== undefined) return
      timer = setInterval(look, times.pollMs).unref()
      look()
    },
    async close() {
      clearInterval(timer)
      for (const [id, mdnsLink] of links) stop(id, mdnsLink)
      await Promise.all(closing)
    },
    askAgain() {
      for (const mdnsLink of links.values()) mdnsLink.askAgain()
    },
    addresses: () => ownAddresses,
    problems: () => (timer === undefined ? [] : problems()),
  }
}
