import { fail, isNarwharfError, NarwharfError } from '../../protocol/errors.ts'
import type { Holding } from './holder.ts'
import type { PeerTransportReply } from './peer.ts'

/** A peer that gives less than this in the time below is as good as stalled. 3 KB/s: no LAN is so slow. */
const SLOW_BYTES = 64 * 1024
const SLOW_MS = 20_000

/** How often a transfer that broke is taken up again with the same peer before the next holder has its turn. */
const RECONNECTS = 1

export interface PeerNarRequest {
  /** For people. */
  readonly peer: string
  readonly holderId: string
  readonly holding: Holding
  readonly path: string
  readonly offset: number
  /** Exclusive. */
  readonly end: number
  readonly signal: AbortSignal
  get(
    path: string,
    range: { readonly offset: number; readonly end?: number | undefined } | undefined,
  ): Promise<PeerTransportReply>
}

/** Checks what the peer says it sends against what was asked for. */
function checkReply(
  { peer, holderId, holding, end }: PeerNarRequest,
  { status, headers }: PeerTransportReply,
  offset: number,
): void {
  const { storePath, narSize } = holding.info
  if (status === 404) fail('HOLDING_GONE', { path: storePath, holder: holderId })
  const isPart = offset > 0 || end < narSize
  if (status !== (isPart ? 206 : 200)) {
    fail('PEER_BROKE', { peer, problem: `it answered with status ${status}` })
  }
  if (isPart && headers['content-range']?.startsWith(`bytes ${offset}-`) !== true) {
    fail('PEER_BROKE', { peer, problem: 'it sends another part than was asked for' })
  }
  const length = headers['content-length']
  if (length !== undefined && Number(length) !== end - offset) {
    fail('PEER_BROKE', { peer, problem: `it has ${length} bytes to send of ${end - offset}` })
  }
}

/**
 * A peer's bytes of a NAR from `offset` up to `end`, unverified. A broken connection is made once more, at the byte where it
 * stopped. Throws PEER_BROKE, PEER_STALLED, PEER_UNREACHABLE, HOLDING_GONE.
 */
export async function* openPeerNar(
  request: PeerNarRequest,
): AsyncGenerator<Buffer, void, undefined> {
  const { peer, holding, signal, end } = request
  const { narSize } = holding.info
  const rangeFrom = (offset: number) =>
    end < narSize ? { offset, end } : offset === 0 ? undefined : { offset }
  let at = request.offset
  for (let attempt = 0; at < end; attempt++) {
    const before = at
    try {
      const reply = await request.get(request.path, rangeFrom(at))
      try {
        checkReply(request, reply, at)
        for await (const chunk of watchPace(reply.body, peer)) {
          at += chunk.length
          yield chunk
        }
      } finally {
        reply.destroy()
      }
      if (at < end) {
        throw new NarwharfError('PEER_BROKE', { peer, problem: `it stopped at byte ${at}` })
      }
    } catch (error) {
      const again = isNarwharfError(error, 'PEER_BROKE') && at > before && attempt < RECONNECTS
      // It was there when it began: another thing than one that was not reached at all.
      if (at > request.offset && isNarwharfError(error, 'PEER_UNREACHABLE')) {
        const problem = `it stopped at byte ${at} and cannot be reached any more`
        throw new NarwharfError('PEER_BROKE', { peer, problem }, error)
      }
      if (!again || signal.aborted) throw error
    }
  }
}

/** Ends a body that drips: the time that the peer is waited for counts, not the reader's. */
async function* watchPace(
  body: AsyncIterable<Buffer>,
  peer: string,
): AsyncGenerator<Buffer, void, undefined> {
  let waited = 0
  let bytes = 0
  let since = performance.now()
  for await (const chunk of body) {
    waited += performance.now() - since
    bytes += chunk.length
    if (waited > SLOW_MS) {
      if (bytes < SLOW_BYTES) {
        fail('PEER_STALLED', { peer, problem: `only ${bytes} bytes came in ${SLOW_MS / 1000} s` })
      }
      waited = 0
      bytes = 0
    }
    yield chunk
    since = performance.now()
  }
}
