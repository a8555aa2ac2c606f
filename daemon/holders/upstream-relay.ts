import { formatNarinfo } from '../../protocol/narinfo.ts'
import type { NarInfo } from '../../protocol/path-info.ts'
import type { HashPart } from '../../protocol/store-path.ts'
import type { ByteStream } from '../workers/byte-stream.ts'
import type { KnownNarinfo } from './upstream-narinfos.ts'
import type { FetchReply, Transport } from './upstream-transport.ts'

// The other end of "one host fetches for the site": what a host gives its peers of an upstream link, as if it were the
// upstream itself. It asks its own link only, never another peer, so that two hosts of different opinion do not go in circles.

/** What a relay gives from. */
export interface RelayOptions {
  known(hashPart: HashPart): KnownNarinfo | undefined
  /** Asks the upstream; rejects when it cannot be asked now. */
  ask(hashPart: HashPart): Promise<void>
  /** The NAR file, as it comes. */
  openFile(info: NarInfo, offset: number): ByteStream
}

const NARINFO_PATH = /^([0-9a-df-np-sv-z]{32})\.narinfo$/

/** The link is down here: the asking host tries its own. */
const UNAVAILABLE = 503

const withoutBody = (status: number, total?: number): FetchReply => ({
  status,
  offset: 0,
  total,
  body: { async *[Symbol.asyncIterator]() {} },
  destroy() {},
})

const textReply = (text: string): FetchReply => ({
  status: 200,
  offset: 0,
  total: text.length,
  body: {
    async *[Symbol.asyncIterator]() {
      yield Buffer.from(text, 'latin1')
    },
  },
  destroy() {},
})

/** Makes the relay of one upstream: 200, 206 and 416 as HTTP has them, 404 for a "no", 503 while the link is down. */
export function createRelay({ known, ask, openFile }: RelayOptions): Transport {
  const fileReply = (info: NarInfo, offset: number): FetchReply => {
    const total = info.compression === 'none' ? info.narSize : info.fileSize
    if (offset > 0 && total !== undefined && offset >= total) return withoutBody(416, total)
    const body = openFile(info, offset)
    return { status: offset > 0 ? 206 : 200, offset, total, body, destroy: () => body.destroy() }
  }
  return {
    async get({ path, hashPart, offset = 0 }) {
      const asked = (NARINFO_PATH.exec(path)?.[1] as HashPart | undefined) ?? hashPart
      if (asked === undefined) return withoutBody(404)
      try {
        await ask(asked)
      } catch {
        return withoutBody(UNAVAILABLE)
      }
      const answer = known(asked)
      if (answer === undefined) return withoutBody(UNAVAILABLE)
      if (answer === 'absent') return withoutBody(404)
      if (NARINFO_PATH.test(path)) return textReply(formatNarinfo(answer.info))
      return path === answer.info.url ? fileReply(answer.info, offset) : withoutBody(404)
    },
    close() {},
  }
}

/** A small reply's body; undefined when it is more than `limit`. Rejects when it is cut. */
export async function readSmall(reply: FetchReply, limit: number): Promise<Buffer | undefined> {
  const parts: Buffer[] = []
  let length = 0
  try {
    for await (const part of reply.body) {
      length += part.length
      if (length > limit) return undefined
      parts.push(part)
    }
  } finally {
    reply.destroy()
  }
  if (reply.total !== undefined && reply.total !== length) throw new Error('the reply was cut')
  return Buffer.concat(parts, length)
}
