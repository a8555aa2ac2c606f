import type { Logger } from 'pino'
import type { EventBus } from '../events.ts'
import type { Members, PeerKey } from '../site.ts'
import { createFollower, type Follower } from './follower.ts'
import type { HeadBook, KnownHead } from './head-book.ts'
import type { Indexes } from './indexes.ts'
import type { LogStore } from './log-store.ts'

export interface ReplicaOptions {
  readonly members: Members
  readonly heads: HeadBook
  readonly indexes: Indexes
  readonly logs: LogStore
  readonly events: EventBus
  readonly log: Logger
  readonly retryMs: number
}

/** Every member's newest log, followed into the catalog. */
export interface Replica {
  /** A head that is newer than what was known of its host. */
  follow(head: KnownHead): void
  /** What is known of hosts that are no members (any more) goes. */
  forgetStrangers(): Promise<void>
  lag(host: PeerKey): number
  /** Why a host's index is not listened to. */
  problem(host: PeerKey): string | undefined
  close(): Promise<void>
}

interface Followed {
  readonly head: KnownHead
  readonly follower: Follower
  /** The log before, kept for others until this one is whole. */
  before: Follower | undefined
}

export function createReplica(options: ReplicaOptions): Replica {
  const { members, heads, indexes, events, log } = options
  const followed = new Map<PeerKey, Followed>()
  const liars = new Map<PeerKey, { readonly epoch: number; readonly problem: string }>()
  const forked = new Set<string>()
  /** Ends of followers under way: a close waits for them. */
  const ending = new Set<Promise<unknown>>()
  let closed = false

  const later = (work: Promise<unknown>) => {
    const kept = work
      .catch((error: unknown) => log.warn({ err: error }, 'an index was not left as it should be'))
      .finally(() => ending.delete(kept))
    ending.add(kept)
  }

  const stop = async (host: PeerKey) => {
    const one = followed.get(host)
    followed.delete(host)
    await Promise.all([one?.follower.close(true), one?.before?.close(true)])
  }

  const onInvalid = (head: KnownHead, problem: string) => {
    const { host, epoch } = head
    liars.set(host, { epoch, problem })
    log.warn(
      { host },
      `the index of ${members.nameOf(host) ?? host} is not listened to: ${problem}`,
    )
    events.emit('peer:lied', host, problem)
    later(
      stop(host)
        .then(() => indexes.forget(host))
        .then(() => void events.emit('index:changed', host)),
    )
  }

  const start = (head: KnownHead, before: Follower | undefined) => {
    const { host } = head
    const one: Followed = {
      head,
      before,
      follower: createFollower(head, {
        logs: options.logs,
        indexes,
        log,
        name: members.nameOf(host) ?? host,
        retryMs: options.retryMs,
        onApplied: () => void events.emit('index:changed', host),
        onWhole() {
          if (one.before !== undefined) later(one.before.close(true))
          one.before = undefined
        },
        onInvalid: problem => onInvalid(head, problem),
        onForked() {
          forked.add(head.core)
          heads.forget(host)
          log.warn({ host }, `the log of ${members.nameOf(host) ?? host} has two histories`)
          later(stop(host))
        },
      }),
    }
    followed.set(host, one)
  }

  return {
    follow(head) {
      const { host, epoch } = head
      if (closed || forked.has(head.core)) return
      const lied = liars.get(host)
      if (lied !== undefined && epoch <= lied.epoch) return
      liars.delete(host)
      const now = followed.get(host)
      if (now?.head.core === head.core) return now.follower.saw(head)
      if (now?.before !== undefined) later(now.follower.close(true))
      else if (now !== undefined) later(now.follower.hold())
      start(head, now?.before ?? now?.follower)
    },
    async forgetStrangers() {
      const known = new Set([...followed.keys(), ...indexes.list().map(({ key }) => key)])
      for (const host of known) {
        if (host === members.key || members.isMember(host)) continue
        heads.forget(host)
        liars.delete(host)
        await stop(host)
        await indexes.forget(host)
        events.emit('index:changed', host)
      }
    },
    lag: host => followed.get(host)?.follower.lag() ?? 0,
    problem: host => liars.get(host)?.problem,
    async close() {
      closed = true
      const all = [...followed.values()]
      followed.clear()
      await Promise.all(
        all.flatMap(({ follower, before }) => [follower.close(false), before?.close(false)]),
      )
      await Promise.all(ending)
    },
  }
}
