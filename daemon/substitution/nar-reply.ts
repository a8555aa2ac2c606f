import type { Compression } from '../../protocol/path-info.ts'
import { fail, isNarwharfError } from '../../protocol/errors.ts'
import { encodeNix32 } from '../../protocol/nix32.ts'
import type { NarUrl } from '../../protocol/nar-url.ts'
import { canEncode, createEncoder } from '../compression/encoder.ts'
import type { ByteRange, ByteStream } from '../workers/byte-stream.ts'
import type { Candidate } from './candidates.ts'
import type { Verdict, VerdictLease, Verdicts } from './verdicts.ts'

/** A NAR ready to be sent, whoever holds it. */
export interface NarReply {
  /** Bytes of the whole body; undefined when it is compressed on the fly. */
  readonly totalBytes: number | undefined
  /** Whether a later request for the rest gets the same bytes: only then may a client resume. */
  readonly resumable: boolean
  /** Bytes of the uncompressed NAR. */
  readonly narSize: number
  /** The bytes of that range; throws in the middle when no holder can go on or the bytes turned out wrong. */
  open(range: { readonly start: number; readonly end: number }): ByteStream
  /** For a reply that is not opened. */
  cancel(): void
}

/**
 * How long the first byte waits for the check of a NAR that was never read before. Most are done in milliseconds and a
 * damaged one is then a clean 404; a longer one streams while the check runs ahead, and its last bytes wait for the verdict.
 */
export const START_GATE_MS = 2500

/**
 * A peer's NAR up to this size is not begun before it is here and right: it is there in milliseconds, or the peer stalls, drips
 * or lies, and then the next one has its turn while nothing wrong is out yet, and Nix gets a 404 rather than a cut that it
 * tries to mend five times.
 */
const WHOLE_FIRST_BYTES = 1024 * 1024

/** The longest that may take, ms: beyond what a peer may stall or drip. */
const WHOLE_FIRST_MS = 30_000

/** One way to produce the body: from which candidates, and how. */
interface Representation {
  readonly candidates: readonly Candidate[]
  readonly totalBytes: number | undefined
  readonly resumable: boolean
  readonly source: (candidate: Candidate, range: ByteRange) => ByteStream
}

const narHashOf = (candidate: Candidate) => encodeNix32(candidate.holding.info.narHash.bytes)

const fileHashOf = ({ holding }: Candidate) =>
  holding.fileHash?.algorithm === 'sha256' ? encodeNix32(holding.fileHash.bytes) : undefined

/** Chooses how to make what the URL means; undefined when nobody can. */
function represent(
  url: NarUrl,
  candidates: readonly Candidate[],
  resuming: boolean,
): Representation | undefined {
  // A path built twice may have two contents: one transfer is made of one of them.
  const narHash = url.narHash ?? (candidates[0] && narHashOf(candidates[0]))
  const same = candidates.filter(candidate => narHashOf(candidate) === narHash)
  const [first] = same
  if (first === undefined) return undefined
  if (url.compression === 'none') {
    return {
      candidates: same,
      totalBytes: first.holding.info.narSize,
      resumable: true,
      source: ({ holder, holding }, range) => holder.openNar(holding, range),
    }
  }
  if (url.fileHash !== undefined) {
    const files = same.filter(
      c =>
        c.holder.openFile !== undefined &&
        c.holding.compression === url.compression &&
        fileHashOf(c) === url.fileHash,
    )
    if (files[0] !== undefined) {
      return {
        candidates: files,
        totalBytes: files[0].holding.fileSize,
        resumable: true,
        source: ({ holder, holding }, range) =>
          holder.openFile?.(holding, range) ?? fail('HOLDING_GONE', { holder: holder.id }),
      }
    }
  } else if (url.compression === 'zstd') {
    const live = same.filter(c => c.holder.openZstd !== undefined)
    if (live.length > 0) {
      return {
        candidates: live,
        totalBytes: undefined,
        resumable: true,
        source: ({ holder, holding }, range) =>
          holder.openZstd?.(holding, range) ?? fail('HOLDING_GONE', { holder: holder.id }),
      }
    }
  }
  // The file that the client's narinfo of last month names is gone, its content is not: pack it anew. The bytes differ
  // from the old file's, so a half of that must not be completed from here.
  if (resuming || !canEncode(url.compression)) return undefined
  return {
    candidates: same,
    totalBytes: undefined,
    resumable: false,
    source: ({ holder, holding }) => encoded(holder.openNar(holding), url.compression),
  }
}

/** A stream packed on its way. */
function encoded(source: ByteStream, compression: Compression): ByteStream {
  const encoder = createEncoder(compression) ?? fail('COMPRESSION_UNKNOWN', { compression })
  const feed = async () => {
    for await (const chunk of source) {
      if (!encoder.write(Buffer.from(chunk))) {
        await new Promise<void>(resolve => encoder.once('drain', resolve).once('close', resolve))
      }
      source.recycle(chunk)
      if (encoder.destroyed) return
    }
    encoder.end()
  }
  feed().catch((error: Error) => encoder.destroy(error))
  return {
    recycle() {},
    destroy() {
      source.destroy()
      encoder.destroy()
    },
    [Symbol.asyncIterator]: () => encoder[Symbol.asyncIterator]() as AsyncIterator<Buffer>,
  }
}

async function verdictWithin(lease: VerdictLease, budgetMs: number): Promise<Verdict | undefined> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<undefined>(resolve => {
    timer = setTimeout(resolve, budgetMs, undefined)
  })
  try {
    return await Promise.race([lease.verdict, late])
  } finally {
    clearTimeout(timer)
  }
}

/** A candidate whose check has begun and has not failed. */
interface Gated {
  readonly candidate: Candidate
  readonly lease: VerdictLease
  /** The verdict if it came before the first byte. */
  readonly verdict: Verdict | undefined
}

async function gate(
  candidates: readonly Candidate[],
  from: number,
  verdicts: Verdicts,
  startGateMs: number,
): Promise<{ readonly gated: Gated; readonly index: number } | undefined> {
  for (let index = from; index < candidates.length; index++) {
    const candidate = candidates[index] as Candidate
    if (verdicts.known(candidate.holder, candidate.holding) === 'bad') continue
    if (!candidate.holder.isCurrent(candidate.holding)) continue
    const lease = verdicts.lease(candidate.holder, candidate.holding)
    const isSmall = candidate.holding.info.narSize <= WHOLE_FIRST_BYTES
    const budgetMs = candidate.holder.kind === 'peer' && isSmall ? WHOLE_FIRST_MS : startGateMs
    const verdict = await verdictWithin(lease, budgetMs)
    if (verdict === undefined || verdict === 'good') {
      return { gated: { candidate, lease, verdict }, index }
    }
    lease.release()
  }
  return undefined
}

/** Bytes of the range from the first holder that can, going on with the next at the byte where one broke. */
async function* fallThrough(
  how: Representation,
  begin: { readonly gated: Gated; readonly index: number },
  verdicts: Verdicts,
  startGateMs: number,
  range: { readonly start: number; readonly end: number },
  track: (source: ByteStream | undefined, chunk?: Buffer) => void,
  isOver: () => boolean,
  onWhole: PrepareOptions['onWhole'],
): AsyncGenerator<Buffer, void, undefined> {
  let at = range.start
  let lastError: unknown
  for (
    let turn: typeof begin | undefined = begin;
    turn !== undefined;
    turn = await gate(how.candidates, turn.index + 1, verdicts, startGateMs)
  ) {
    const { candidate, lease } = turn.gated
    let verdict = turn.gated.verdict
    void lease.verdict.then(late => (verdict ??= late))
    const source = how.source(candidate, {
      offset: at,
      end: range.end === Infinity ? undefined : range.end,
    })
    track(source)
    let held: Buffer | undefined
    try {
      for await (const chunk of source) {
        track(source, chunk)
        if (verdict !== undefined && verdict !== 'good') break
        // One chunk is held back while the verdict is out: a client that lacks the end cannot take a wrong NAR for a whole one.
        if (held !== undefined) {
          at += held.length
          yield held
        }
        held = chunk
        if (verdict === 'good') {
          at += held.length
          yield held
          held = undefined
        }
      }
      verdict ??= await lease.verdict
      if (verdict === 'good') {
        if (held !== undefined) yield held
        onWhole?.(candidate)
        return
      }
    } catch (error) {
      lastError = error
    } finally {
      lease.release()
      source.destroy()
      track(undefined)
    }
    // Nobody reads any more: no other holder needs to be troubled.
    if (isOver()) return
    if (PEER_WENT.some(code => isNarwharfError(lastError, code))) {
      verdicts.breakOff(candidate.holding.info.narHash.bytes)
    }
    // Bytes that turned out wrong may be out already, by this transfer or the one it resumes: nothing can mend it, and the
    // rest must not be had from elsewhere.
    if ((verdict === 'bad' || isNarwharfError(lastError, 'PEER_LIED')) && at > 0) {
      verdicts.spoil(candidate.holding.info.narHash.bytes)
      break
    }
  }
  throw (
    lastError ??
    fail('NAR_MISMATCH', {
      path: how.candidates[0]?.holding.info.storePath,
      field: 'content',
      actual: 'changed on the way',
      expected: 'what was signed',
    })
  )
}

/** How it shows that a peer went away in the middle. */
const PEER_WENT = ['PEER_BROKE', 'PEER_UNREACHABLE'] as const

/** What is known of the request. */
export interface PrepareOptions {
  /** The asker has the first part already and wants the rest. */
  readonly resuming: boolean
  /** Only the headers are wanted: nothing is read, the reply cannot be opened. */
  readonly probe?: boolean | undefined
  readonly startGateMs?: number | undefined
  /** For a client: what comes from afar may be kept in this host's cache. */
  readonly keep?: boolean | undefined
  /** Told whose bytes they were in the end, when all went out and the whole was right. */
  readonly onWhole?: ((candidate: Candidate) => void) | undefined
}

/**
 * Prepares the body for a NAR URL from candidates that are allowed to the asker, most wanted first. Undefined when none
 * has it, or all copies are damaged.
 */
export async function prepareNar(
  url: NarUrl,
  candidates: readonly Candidate[],
  verdicts: Verdicts,
  options: PrepareOptions,
): Promise<NarReply | undefined> {
  const how = represent(url, candidates, options.resuming)
  const first = how?.candidates[0]
  if (how === undefined || first === undefined) return undefined
  if (options.probe === true) {
    return {
      totalBytes: how.totalBytes,
      resumable: how.resumable,
      narSize: first.holding.info.narSize,
      cancel() {},
      open: () => fail('HOLDING_GONE', { path: first.holding.info.storePath, holder: 'nobody' }),
    }
  }
  const startGateMs = options.startGateMs ?? START_GATE_MS
  const begin = await gate(how.candidates, 0, verdicts, startGateMs)
  if (begin === undefined) return undefined
  const { holding } = begin.gated.candidate
  // What the asker has may be of a copy that turned out wrong since: it had better begin anew, elsewhere or here.
  if (options.resuming && verdicts.isSpoilt(holding.info.narHash.bytes)) {
    begin.gated.lease.release()
    return undefined
  }
  const totalBytes =
    how.totalBytes === undefined
      ? undefined
      : url.compression === 'none'
        ? holding.info.narSize
        : (holding.fileSize ?? how.totalBytes)
  return {
    totalBytes,
    resumable: how.resumable,
    narSize: holding.info.narSize,
    cancel: () => begin.gated.lease.release(),
    open(range) {
      let current: ByteStream | undefined
      // A chunk goes back to the source it came from, which may no longer be the one that is being read.
      const origin = new WeakMap<Buffer, ByteStream>()
      let over = false
      const track = (source: ByteStream | undefined, chunk?: Buffer) => {
        current = source
        if (source !== undefined && chunk !== undefined) origin.set(chunk, source)
      }
      const chunks = fallThrough(
        how,
        begin,
        verdicts,
        startGateMs,
        range,
        track,
        () => over,
        options.onWhole,
      )
      return {
        [Symbol.asyncIterator]: () => chunks,
        recycle: chunk => origin.get(chunk)?.recycle(chunk),
        destroy() {
          over = true
          current?.destroy()
          begin.gated.lease.release()
        },
      }
    },
  }
}
