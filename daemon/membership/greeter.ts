import { isNarwharfError } from '../../protocol/errors.ts'
import { checkProof, makeProof } from '../../protocol/invite.ts'
import { MEMBERS_MAX, withLines, type Statement } from '../../protocol/member-list.ts'
import { nextRevision } from '../../protocol/membership.ts'
import {
  decodeJoinFacts,
  decodePairingRequest,
  encodePairingReply,
  type PairingReply,
  type PairingRequest,
} from '../../protocol/pairing.ts'
import { freeName, type Host } from './host.ts'
import { signAll, type Site } from './roster.ts'

// What a host answers to somebody whom it does not know yet. Whatever is wrong, the answer is the same one byte: a stranger
// learns neither whether a code exists, nor that it is too old, nor that there is a site at all.

const REFUSED: PairingReply = { kind: 'refused', rest: Buffer.alloc(0) }
const reply = (kind: PairingReply['kind'], rest: Uint8Array = Buffer.alloc(0)): PairingReply => ({
  kind,
  rest: Buffer.from(rest),
})

/** Who asks, over which connection. */
interface Asker {
  readonly handshakeHash: Uint8Array
  readonly remoteKey: string
}

function letIn(host: Host, site: Site, request: PairingRequest, asker: Asker): PairingReply {
  const { list, view } = site
  const { remoteKey: key, handshakeHash } = asker
  if (view.members.get(host.key)?.admin !== true) return REFUSED
  const { proof, rest } = request
  const invite = host.invites.find(proof, { handshakeHash, role: 'joiner', key, rest })
  if (invite === undefined) return REFUSED
  // From here on it is the one whom a person invited, so it may be told what is in the way.
  if (view.revoked.has(key)) return reply('revoked')
  const facts = decodeJoinFacts(rest)
  const known = view.members.get(key)
  if (known === undefined && view.members.size >= MEMBERS_MAX) return reply('full')
  const statements: Statement[] = []
  if (known === undefined) {
    statements.push({
      kind: 'admit',
      key,
      revision: nextRevision(view, key),
      name: freeName(view.members, invite.name ?? facts.name, key),
      nixKey: facts.nixKey,
    })
  }
  if (invite.admin && known?.admin !== true) statements.push({ kind: 'admin', key })
  // Used up first: a crash in between costs an invite, the other way round one would let two hosts in. The same host may
  // come again with it.
  host.invites.use(invite, key)
  if (statements.length > 0) {
    host.roster.set(withLines(list, signAll(list, statements, host.keyPair)))
  }
  return reply('welcome', host.roster.site?.bytes)
}

function greet(host: Host, site: Site, request: PairingRequest, asker: Asker): PairingReply {
  const { remoteKey, handshakeHash } = asker
  const secret = Buffer.from(site.list.siteKey, 'hex')
  const asked = { handshakeHash, role: 'greeter', key: remoteKey, rest: request.rest } as const
  const good = checkProof(secret, asked, request.proof)
  if (!good || site.view.revoked.has(remoteKey)) return REFUSED
  if (request.kind === 'greet') {
    return reply('greeted', makeProof(secret, { handshakeHash, role: 'greeted', key: host.key }))
  }
  host.roster.take(request.rest)
  const merged = host.roster.site
  return merged?.view.members.has(remoteKey) === true ? reply('welcome', merged.bytes) : REFUSED
}

/** Answers a request to pair. Never throws for what a stranger sends; rethrows what is wrong with this host (a full disk). */
export function answerPairing(host: Host, request: Uint8Array, asker: Asker): Buffer {
  const { site } = host.roster
  if (site === undefined) return encodePairingReply(REFUSED)
  try {
    const parsed = decodePairingRequest(request)
    const answer = parsed.kind === 'join' ? letIn : greet
    return encodePairingReply(answer(host, site, parsed, asker))
  } catch (error) {
    if (isNarwharfError(error)) return encodePairingReply(REFUSED)
    throw error
  }
}

/** What a stranger gets that is not even looked at. */
export const refusal = (): Buffer => encodePairingReply(REFUSED)
