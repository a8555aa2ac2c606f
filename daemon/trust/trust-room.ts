import { createHash } from 'node:crypto'
import type { Problem } from '../../protocol/api.ts'
import type { Catalog } from '../catalog/catalog.ts'
import { keyring, parsePublicKey, signText } from '../../protocol/signature.ts'
import { baseNameOf, nameOf } from '../../protocol/store-path.ts'
import type { StorePath } from '../../protocol/store-path.ts'
import type { Holder, Holding } from '../holders/holder.ts'
import { createContentReader, type ContentReader } from './content-digest.ts'
import { createDecisionMemory, evidenceOf, type DecisionMemory } from './decision-memory.ts'
import { matchGlob } from './glob.ts'
import { loadIdentity } from './identity.ts'
import { applyRules, type Outcome, type Rules } from './rules.ts'
import { judgeTelling, tellDecided, type PeerSharing, type Telling } from './telling.ts'
import type { Decision, Trust } from './trust.ts'

/** Raised whenever the rules themselves change, so that what older rules decided is decided anew. */
const RULES_VERSION = 2

export interface TrustOptions {
  /** Read, or made at the first start. */
  readonly secretKeyFile: string
  /** Names a new key. */
  readonly hostName: string
  /** `name:base64`; signatures by these make a path public. */
  readonly publicKeys: readonly string[]
  /** Patterns over base names and names that are never offered. */
  readonly deny: readonly string[]
  /** `all`: the operator vouches for the whole live store; `ultimate`: for what it built. */
  readonly store: 'ultimate' | 'all'
  /** Whether the word of a member is enough for what it built itself. Default: no. */
  readonly members?: boolean | undefined
  readonly storeDir: string
  readonly catalog: Pick<Catalog, 'decisions'>
  /** Ms since 1970. */
  readonly clock?: (() => number) | undefined
}

/** Trust with what a person should know of it. */
export interface TrustRoom extends Trust {
  readonly problems: () => readonly Problem[]
  /** Signs what this host says of itself (manifests, have digests, receipts) by its Nix key: `name:base64`. */
  sign(bytes: Buffer): string
  /** What `decide` would find of bytes that no holder has yet: nothing of it is remembered. */
  judge(holder: Holder, holding: Holding): Promise<Decision>
  /** What peers are told of a holding; where content may have to be read for it, a function that does. */
  tell(holder: Holder, holding: Holding, sharing: PeerSharing): Telling | (() => Promise<Telling>)
}

/** What `open` made. */
interface Open {
  readonly publicKey: string
  readonly problems: readonly Problem[]
  readonly rules: Rules
  readonly reader: ContentReader
  readonly memory: DecisionMemory
}

/** Trust of one host. `open()` throws KEY_INVALID for a key file or public key that is none. */
export function createTrust(options: TrustOptions): TrustRoom {
  const {
    secretKeyFile,
    hostName,
    publicKeys,
    deny,
    store,
    members = false,
    storeDir,
    catalog,
    clock = Date.now,
  } = options
  let state: Open | undefined
  const inFlight = new Map<string, Promise<Decision>>()

  const opened = (): Open => {
    if (state === undefined) throw new Error('trust is closed')
    return state
  }
  const isDenied = (storePath: StorePath): boolean => {
    const baseName = baseNameOf(storePath)
    return deny.some(
      pattern => matchGlob(pattern, baseName) || matchGlob(pattern, nameOf(baseName)),
    )
  }

  const room: TrustRoom = {
    get publicKey() {
      return opened().publicKey
    },
    problems: () => state?.problems ?? [],
    sign: bytes => signText(bytes.toString('utf8'), opened().rules.secret),
    async open() {
      if (state !== undefined) return
      const keys = keyring(publicKeys.map(parsePublicKey))
      const { secret, publicKey, problems } = await loadIdentity(secretKeyFile, hostName)
      const reader = createContentReader()
      // Deny rules are asked every time, so they need no place here.
      const epoch = createHash('sha256')
        .update(JSON.stringify([RULES_VERSION, publicKey, [...publicKeys].sort(), store, members]))
        .digest('base64')
        .slice(0, 16)
      state = {
        publicKey,
        problems,
        reader,
        memory: createDecisionMemory(catalog, epoch, clock),
        rules: {
          keys,
          ownKeys: keyring([secret.publicKey]),
          secret,
          storeDir,
          vouchForStore: store === 'all',
          trustMembers: members,
          reader,
        },
      }
    },
    async close() {
      state?.reader.close()
      state = undefined
      await Promise.allSettled(inFlight.values())
    },
    decide(holder, holding) {
      const { rules, memory, reader } = opened()
      if (isDenied(holding.info.storePath)) {
        return { offered: false, reason: 'denied', untrustedKeys: [] }
      }
      const evidence = evidenceOf(holder, holding)
      const known = memory.get(holder, holding, evidence) ?? inFlight.get(evidence)
      if (known !== undefined) return known
      const keep = ({ decision, passing }: Outcome): Decision => {
        // What a closing room could not finish reading is not to be remembered.
        if (state?.reader === reader) memory.put(holder, holding, evidence, decision, { passing })
        return decision
      }
      const outcome = applyRules(holder, holding, rules)
      if (!(outcome instanceof Promise)) return keep(outcome)
      const decision = outcome.then(keep).finally(() => inFlight.delete(evidence))
      inFlight.set(evidence, decision)
      return decision
    },
    async judge(holder, holding) {
      if (isDenied(holding.info.storePath)) {
        return { offered: false, reason: 'denied', untrustedKeys: [] }
      }
      return (await applyRules(holder, holding, opened().rules)).decision
    },
    tell(holder, holding, sharing) {
      const { rules, memory } = opened()
      if (isDenied(holding.info.storePath)) return { told: false }
      const telling = judgeTelling(holder, holding, rules, sharing)
      if (telling !== 'decide') return telling
      const known = memory.get(holder, holding, evidenceOf(holder, holding))
      if (known !== undefined) return tellDecided(known, rules, sharing)
      return async () => tellDecided(await room.decide(holder, holding), rules, sharing)
    },
  }
  return room
}
