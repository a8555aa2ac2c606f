import type { Whereabouts } from '../../protocol/api-wants.ts'
import type { PathInfo } from '../../protocol/path-info.ts'
import { hashPartOf, type HashPart, type StorePath } from '../../protocol/store-path.ts'
import type { Holder, Holding } from '../holders/holder.ts'
import type { PeerIndexes, PeerKey } from '../site.ts'
import type { Audience } from '../substitution/candidates.ts'
import type { Substitution } from '../substitution/substitution.ts'
import type { Trust } from '../trust/trust.ts'

// What is known here of a path: from holders of this machine and the peers' indexes, without a question over the network.

/** A path as it is known here. */
export interface Known {
  /** From whoever has it, trusted or not; undefined where nobody ever said. */
  readonly info: PathInfo | undefined
  /** Bytes of its NAR file where one is known. */
  readonly fileSize: number | undefined
  /** Somebody within reach gives it, and it may be trusted: `here` on this host, drives apart. */
  readonly reach: 'here' | 'drive' | 'peer' | undefined
  /** In this host's store or cache, trusted or not. */
  readonly here: boolean
  /** Somebody within reach has it, and nothing says that it is right. */
  readonly untrusted: boolean
  /** Hosts that say they have it. */
  readonly hosts: readonly Whereabouts[]
}

/** How it stands with a host. */
export interface HostPresence {
  readonly name: string
  readonly up: boolean
  readonly lastSeen?: string | undefined
}

export interface KnowledgeParts {
  readonly substitution: Pick<Substitution, 'holders' | 'candidates' | 'peersFor'>
  readonly trust: Pick<Trust, 'decide'>
  readonly indexes: Pick<PeerIndexes, 'find'>
  readonly presence: (key: PeerKey) => HostPresence
  readonly hostName: string
}

/** Looks up paths. */
export type Look = (path: StorePath) => Promise<Known>

const NEAR: Audience = { loopback: true, legacy: false, nearOnly: true }

const sizeOf = (holdings: readonly Holding[]): number | undefined =>
  holdings.find(({ fileSize }) => fileSize !== undefined)?.fileSize

export function createLook(parts: KnowledgeParts): Look {
  const { substitution, trust, indexes, presence, hostName } = parts

  /** What holders of this machine have under a hash part: those that answer. */
  const nearby = async (hashPart: HashPart): Promise<{ holder: Holder; holding: Holding }[]> => {
    const found: { holder: Holder; holding: Holding }[] = []
    for (const holder of substitution.holders) {
      try {
        const holding = await holder.find(hashPart)
        if (holding !== undefined) found.push({ holder, holding })
      } catch {
        // Out of reach: it has nothing now.
      }
    }
    return found
  }
  /** The first peer within reach whose copy may be trusted. */
  const fromPeers = async (path: StorePath): Promise<Holding | undefined> => {
    for (const holder of substitution.peersFor(hashPartOf(path))) {
      try {
        const holding = await holder.find(hashPartOf(path))
        if (holding?.info.storePath !== path) continue
        if ((await trust.decide(holder, holding)).offered) return holding
      } catch {
        // It went away meanwhile.
      }
    }
    return undefined
  }

  return async path => {
    const hashPart = hashPartOf(path)
    const near = (await nearby(hashPart)).filter(({ holding }) => holding.info.storePath === path)
    const isHere = near.some(({ holder }) => holder.kind !== 'drive')
    const offered =
      near.length === 0
        ? []
        : (await substitution.candidates(hashPart, NEAR)).filter(
            ({ holding }) => holding.info.storePath === path,
          )
    const nearReach =
      offered.length === 0
        ? undefined
        : offered.some(({ holder }) => holder.kind !== 'drive')
          ? ('here' as const)
          : ('drive' as const)
    const told = indexes.find(hashPart).filter(({ info }) => info.storePath === path)
    const hosts = told.map(({ peer }): Whereabouts => {
      const { name, up, lastSeen } = presence(peer)
      return { host: name, up, ...(lastSeen !== undefined && { lastSeen }) }
    })
    const ofPeer =
      nearReach === undefined && hosts.some(({ up }) => up) ? await fromPeers(path) : undefined
    const [first] = [...offered, ...near]
    return {
      info: first?.holding.info ?? ofPeer?.info ?? told[0]?.info,
      fileSize: sizeOf(near.map(({ holding }) => holding)),
      reach: nearReach ?? (ofPeer === undefined ? undefined : 'peer'),
      here: isHere,
      untrusted: near.length > 0 || hosts.some(({ up }) => up),
      hosts: isHere ? [{ host: hostName, up: true }, ...hosts] : hosts,
    }
  }
}
