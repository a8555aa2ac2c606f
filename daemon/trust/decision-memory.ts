import { createHash } from 'node:crypto'
import type { Catalog } from '../catalog/catalog.ts'
import { hashPartOf } from '../../protocol/store-path.ts'
import type { Holder, Holding } from '../holders/holder.ts'
import type { Decision } from './trust.ts'

/** Decisions kept in memory, about 1 KB each; the catalog has the rest at 10 us. */
const IN_MEMORY = 5000

/** How long a refusal that another path's arrival could change is kept, ms. */
const RECHECK_MS = 30_000

/** Everything that a decision rests on: while this text is equal, the decision is. */
export function evidenceOf(holder: Holder, { info, identity, builtHere }: Holding): string {
  const { narHash, narSize, ca, deriver, signatures, references } = info
  // Not JSON of it all: this is on the way of every narinfo. Only `ca` is any text; the rest has no line breaks.
  return [
    holder.id,
    info.storePath,
    identity,
    builtHere ? 'built here' : '',
    ca === undefined ? '' : JSON.stringify(ca),
    deriver ?? '',
    narSize,
    Buffer.from(narHash.bytes.buffer, narHash.bytes.byteOffset, narHash.bytes.length).toString(
      'base64',
    ),
    narHash.algorithm,
    signatures.join(' '),
    references.join(' '),
  ].join('\n')
}

/** Decisions already made: in memory, least recently used first out, and over restarts in the catalog. */
export interface DecisionMemory {
  get(holder: Holder, holding: Holding, evidence: string): Decision | undefined
  /** A `passing` decision is asked again soon and not kept over a restart. */
  put(
    holder: Holder,
    holding: Holding,
    evidence: string,
    decision: Decision,
    options: { readonly passing: boolean },
  ): void
}

/** `epoch` is a digest of the configuration that decides: a row of another epoch is none. `now` gives ms. */
export function createDecisionMemory(
  catalog: Pick<Catalog, 'decisions'>,
  epoch: string,
  now: () => number,
): DecisionMemory {
  const entries = new Map<string, { readonly decision: Decision; readonly until: number }>()
  const rowKey = (holder: Holder, { info }: Holding, evidence: string) => ({
    holderId: holder.id,
    hashPart: hashPartOf(info.storePath),
    identity: createHash('sha256').update(evidence).digest('base64').slice(0, 32),
    epoch,
  })
  const remember = (evidence: string, decision: Decision, until: number): void => {
    entries.delete(evidence)
    entries.set(evidence, { decision, until })
    if (entries.size <= IN_MEMORY) return
    for (const oldest of entries.keys()) {
      entries.delete(oldest)
      return
    }
  }
  return {
    get(holder, holding, evidence) {
      const entry = entries.get(evidence)
      if (entry !== undefined) {
        if (entry.until <= now()) return undefined
        entries.delete(evidence)
        entries.set(evidence, entry)
        return entry.decision
      }
      const text = catalog.decisions.get(rowKey(holder, holding, evidence))
      if (text === undefined) return undefined
      let decision: Decision
      try {
        decision = JSON.parse(text) as Decision
      } catch {
        return undefined
      }
      remember(evidence, decision, Infinity)
      return decision
    },
    put(holder, holding, evidence, decision, { passing }) {
      remember(evidence, decision, passing ? now() + RECHECK_MS : Infinity)
      if (!passing) {
        catalog.decisions.put(rowKey(holder, holding, evidence), JSON.stringify(decision))
      }
    },
  }
}
