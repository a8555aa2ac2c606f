import { createHash } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { createEventBus, type EventBus } from '../../daemon/events.ts'
import type { NarSpool } from '../../daemon/holders/nar-spool.ts'
import { createPeerHolder } from '../../daemon/holders/peer.ts'
import type { Holder } from '../../daemon/holders/holder.ts'
import { createLog } from '../../daemon/log.ts'
import { createPeering, type Peering } from '../../daemon/peering/peering.ts'
import type { IndexedHolding, PeerAddress, PeerIndexes, PeerKey } from '../../daemon/site.ts'
import { parseRange } from '../../protocol/http-range.ts'
import { createListing } from '../../protocol/nar/listing.ts'
import { createNarReader } from '../../protocol/nar/reader.ts'
import type { PathInfo } from '../../protocol/path-info.ts'
import { hashPartOf, type HashPart } from '../../protocol/store-path.ts'
import { fakeMembers, type FakeMembers } from './fake-members.ts'
import type { Scope } from './scope.ts'

/** What a peer does with a request for a NAR, instead of sending it. */
export type Misdeed =
  /** Cuts the connection after so many bytes of the answer. */
  | { readonly cutAfter: number }
  /** Says nothing any more after so many bytes. */
  | { readonly stallAfter: number }
  /** Claims to send everything, and ends before. */
  | { readonly truncateAt: number }
  /** Goes on behind the end. */
  | { readonly endless: true }

/** Another host of the site, with a mind of its own. */
export interface FakePeer {
  readonly key: PeerKey
  readonly peering: Peering
  readonly address: PeerAddress
  /** The NARs it gives, which need not be what its index says. */
  readonly nars: Map<HashPart, Buffer>
  readonly index: Map<HashPart, IndexedHolding>
  /** NAR requests that came in: path and range. */
  readonly asked: string[]
  misdeed: Misdeed | undefined
  up: boolean
  /** Puts a path in its index and its NAR in its hands. */
  put(info: PathInfo, nar: Buffer, builtHere?: boolean): void
}

/** A site of fake peers around one host's spool. */
export interface FakeSite {
  readonly own: FakeMembers
  readonly peering: Peering
  readonly events: EventBus
  readonly indexes: PeerIndexes
  readonly peers: FakePeer[]
  add(name: string): Promise<FakePeer>
  holder(peer: FakePeer, spool: NarSpool): Holder
  /** Says that an index changed. */
  touch(): void
}

const log = createLog('silent')

const sendNar = (
  peer: FakePeer,
  nar: Buffer,
  request: IncomingMessage,
  response: ServerResponse,
): void => {
  const part = parseRange(request.headers.range, nar.length)
  if (part.kind === 'unsatisfiable') return void response.writeHead(416).end()
  const { start, end } = part.kind === 'part' ? part : { start: 0, end: nar.length }
  const { misdeed } = peer
  const headers: Record<string, string | number> =
    misdeed !== undefined && 'endless' in misdeed ? {} : { 'Content-Length': end - start }
  if (part.kind === 'part') headers['Content-Range'] = `bytes ${start}-${end - 1}/${nar.length}`
  response.writeHead(part.kind === 'part' ? 206 : 200, headers)
  const body = nar.subarray(start, end)
  if (misdeed === undefined) return void response.end(body)
  if ('endless' in misdeed) {
    response.write(body)
    const more = (): void => {
      while (!response.destroyed && response.write(Buffer.alloc(65_536, 1)));
      if (!response.destroyed) response.once('drain', more)
    }
    return more()
  }
  const count =
    'cutAfter' in misdeed
      ? misdeed.cutAfter
      : 'stallAfter' in misdeed
        ? misdeed.stallAfter
        : misdeed.truncateAt - start
  response.write(body.subarray(0, count), () => {
    if (!('stallAfter' in misdeed)) response.destroy()
  })
}

/** The `.ls` of a NAR. */
function listingOf(nar: Buffer): Buffer {
  const listing = createListing()
  const reader = createNarReader(listing.handler)
  reader.write(nar)
  reader.end()
  return listing.json()
}

/** Makes a site; every peering is real, on loopback. */
export async function makeFakeSite(
  scope: Scope,
  limits: { stallMs?: number; connectMs?: number } = {},
): Promise<FakeSite> {
  const members = new Set<PeerKey>()
  const own = fakeMembers(members, 'own')
  const events = createEventBus()
  const listen = async (who: FakeMembers, handler: (...args: never[]) => void) => {
    const peering = createPeering({
      members: who,
      host: '127.0.0.1',
      port: 0,
      handler: handler as Parameters<typeof createPeering>[0]['handler'],
      acceptStrangers: () => false,
      events,
      log,
      limits: { stallMs: 1000, connectMs: 5000, ...limits },
    })
    const port = await peering.open()
    scope.teardown(() => peering.close())
    return { peering, address: { host: '127.0.0.1', port } }
  }
  const { peering } = await listen(own, () => undefined)
  let version = 0
  const peers: FakePeer[] = []
  const indexes: PeerIndexes = {
    get version() {
      return version
    },
    find: hashPart => peers.flatMap(({ index }) => index.get(hashPart) ?? []),
  }
  return {
    own,
    peering,
    events,
    indexes,
    peers,
    touch: () => void version++,
    async add(name) {
      const who = fakeMembers(members, name)
      const handler = (request: IncomingMessage, response: ServerResponse): void => {
        const url = request.url ?? ''
        const hashPart = (/^\/(?:nar\/)?([0-9a-z]{32})/.exec(url)?.[1] ?? '') as HashPart
        const nar = peer.nars.get(hashPart)
        if (url.startsWith('/nar/')) peer.asked.push(request.headers.range ?? 'whole')
        if (nar === undefined) response.writeHead(404).end()
        else if (url.endsWith('.ls')) response.end(listingOf(nar))
        else sendNar(peer, nar, request, response)
      }
      const at = await listen(who, handler)
      const peer: FakePeer = {
        key: who.key,
        ...at,
        nars: new Map(),
        index: new Map(),
        asked: [],
        misdeed: undefined,
        up: true,
        put(info, nar, builtHere = false) {
          const hashPart = hashPartOf(info.storePath)
          peer.nars.set(hashPart, nar)
          peer.index.set(hashPart, { peer: who.key, info, builtHere })
          version++
        },
      }
      peers.push(peer)
      return peer
    },
    holder: (peer, spool) =>
      createPeerHolder({
        key: peer.key,
        name: own.nameOf(peer.key) ?? peer.key.slice(0, 8),
        indexes,
        transport: peering,
        spool,
        isUp: () => peer.up,
        addresses: () => [peer.address],
        async *paths() {
          yield [...new Set([...peer.index.values()].map(({ info }) => info.storePath))]
        },
        storeDir: '/nix/store',
        events,
      }),
  }
}

/** The SHA-256 of bytes as a path info has it. */
export const narHashOf = (nar: Buffer): PathInfo['narHash'] => ({
  algorithm: 'sha256',
  bytes: createHash('sha256').update(nar).digest(),
})
