import { createHash } from 'node:crypto'
import type { PeerAddress, PeerKey } from '../site.ts'
import type { PeerTransport } from './peer.ts'
import type { FetchReply, Transport } from './upstream-transport.ts'

// One fetch for the site: the way from a host that wants something of an upstream to the host that fetches it. The URL of
// an upstream may hold a password, so peers name it by a digest.

/** Hex digits of a name: two upstreams of one site never share it by chance. */
const NAME_DIGITS = 16

/** First word of the peers' path for what a host fetches from its upstreams. */
export const UPSTREAM_PREFIX = 'upstream'

/** Where no path is meant, as for `nix-cache-info`. */
export const NO_HASH_PART = '-'

/** What hosts call an upstream among themselves: the same on all that configure the same URL. */
export function upstreamName(url: string): string {
  return createHash('sha256').update(url).digest('hex').slice(0, NAME_DIGITS)
}

const BYTES_FROM = /^bytes (\d+)-\d+\/(\d+|\*)$/

/** The transport to one upstream over one peer; rejects as the peer's connection does. */
export function createViaPeer(options: {
  readonly upstream: string
  readonly key: PeerKey
  readonly addresses: () => readonly PeerAddress[]
  readonly transport: PeerTransport
}): Transport {
  const { upstream, key, addresses, transport } = options
  return {
    async get({ path, hashPart, offset = 0, signal }): Promise<FetchReply> {
      const words = [UPSTREAM_PREFIX, upstream, hashPart ?? NO_HASH_PART, encodeURIComponent(path)]
      const reply = await transport.request(key, addresses(), {
        path: `/${words.join('/')}`,
        ...(offset > 0 && { range: { offset } }),
        signal,
      })
      const [, from, whole] = BYTES_FROM.exec(reply.headers['content-range'] ?? '') ?? []
      const length = reply.status === 200 ? reply.headers['content-length'] : whole
      const total = Number(length)
      return {
        status: reply.status,
        offset: reply.status === 206 ? Number(from ?? 0) : 0,
        total: length !== undefined && Number.isSafeInteger(total) ? total : undefined,
        body: reply.body,
        destroy: () => reply.destroy(),
      }
    },
    close() {},
  }
}
