import { isIP } from 'node:net'
import type { Problem } from '../../protocol/api.ts'
import { problemOf } from '../../protocol/errors.ts'
import type { StaticPeer } from '../config-schema.ts'
import type { PeerCandidate } from '../site.ts'

/** Resolves a name to addresses; ends early when the signal says so. */
export type Resolve = (name: string, signal: AbortSignal) => Promise<readonly string[]>

/** What {@link createStaticPeers} is told. */
export interface StaticPeersOptions {
  readonly peers: readonly StaticPeer[]
  /** Hears of every peer at every repetition. */
  readonly sighted: (candidate: PeerCandidate) => void
  readonly resolve: Resolve
  /** How often they are told again, as a connection may have been lost, ms. */
  readonly repeatMs: number
  /** How long the addresses of a name are believed, ms. */
  readonly resolveAgainMs: number
  /** How soon a name is tried again that was not found, ms; doubles until `resolveAgainMs`. */
  readonly resolveRetryMs: number
  /** 0 to 1. */
  readonly random: () => number
}

/** The configured peers. */
export interface StaticPeers {
  open(): void
  close(): void
  problems(): readonly Problem[]
}

/** A share by which waits differ, so that hosts that started together do not ask together for ever. */
const JITTER = 0.2

/** Tells of configured peers again and again; names are resolved one at a time, and a dead name server delays nothing else. */
export function createStaticPeers(options: StaticPeersOptions): StaticPeers {
  const { peers, sighted, resolve, repeatMs, resolveAgainMs, resolveRetryMs, random } = options
  const names = [...new Set(peers.map(({ host }) => host).filter(host => isIP(host) === 0))]
  const addresses = new Map<string, readonly string[]>()
  const unknown = new Map<string, string>()
  const timers = new Set<NodeJS.Timeout>()
  let queue: Promise<void> = Promise.resolve()
  let ending: AbortController | undefined

  const tell = (only?: string): void => {
    for (const { host, port, publicKey } of peers) {
      if (only !== undefined && host !== only) continue
      for (const address of isIP(host) === 0 ? (addresses.get(host) ?? []) : [host]) {
        sighted({ key: publicKey, address: { host: address, port }, source: 'static' })
      }
    }
  }

  const lookUp = async (name: string, signal: AbortSignal, retryMs: number): Promise<void> => {
    if (signal.aborted) return
    let nextMs = resolveAgainMs
    let nextRetryMs = resolveRetryMs
    try {
      addresses.set(name, await resolve(name, signal))
      unknown.delete(name)
    } catch (error) {
      // The addresses found before are kept: the name server is more often away than the peer elsewhere.
      unknown.set(name, problemOf(error))
      nextMs = retryMs
      nextRetryMs = Math.min(retryMs * 2, resolveAgainMs)
    }
    if (signal.aborted) return
    tell(name)
    enqueue(name, signal, nextMs * (1 + JITTER * random()), nextRetryMs)
  }

  const enqueue = (name: string, signal: AbortSignal, waitMs: number, retryMs: number): void => {
    const timer = setTimeout(() => {
      timers.delete(timer)
      queue = queue.then(() => lookUp(name, signal, retryMs))
    }, waitMs).unref()
    timers.add(timer)
  }

  return {
    open() {
      if (ending !== undefined || peers.length === 0) return
      ending = new AbortController()
      const { signal } = ending
      timers.add(setInterval(tell, repeatMs).unref())
      tell()
      for (const name of names) queue = queue.then(() => lookUp(name, signal, resolveRetryMs))
    },
    close() {
      ending?.abort()
      for (const timer of timers) clearTimeout(timer)
      timers.clear()
    },
    problems: () =>
      [...unknown].map(([name, problem]) => ({
        what: `network.peers: the name ${name} cannot be resolved: ${problem}`,
        hint: addresses.has(name)
          ? 'the addresses found before are used'
          : 'write its address instead, or mend the name server',
      })),
  }
}
