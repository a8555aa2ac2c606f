import type { IncomingMessage, ServerResponse } from 'node:http'
import { parseRange } from '../../protocol/http-range.ts'
import type { PublishedFile } from '../publications/published-file.ts'
import { pump } from './nix-nar.ts'

/** A client that takes no byte for so long is gone. */
const IDLE_LIMIT_MS = 310_000

/** GET and HEAD of a file, with one range: 200, 206, 304 or 416. Cut short where the file ends early, so that no part passes for it. */
export async function sendFile(
  request: IncomingMessage,
  response: ServerResponse,
  file: PublishedFile,
  headers: Readonly<Record<string, string>>,
): Promise<void> {
  const { etag, size } = file
  const { range, 'if-range': ifRange, 'if-none-match': ifNoneMatch } = request.headers
  const facts = {
    ...headers,
    ETag: etag,
    'Last-Modified': new Date(file.changedAt).toUTCString(),
    'Accept-Ranges': 'bytes',
  }
  if (ifNoneMatch?.split(',').some(one => one.trim().replace(/^W\//, '') === etag) === true) {
    response.writeHead(304, facts).end()
    return
  }
  const part = parseRange(ifRange === undefined || ifRange === etag ? range : undefined, size)
  if (part.kind === 'unsatisfiable') {
    response.writeHead(416, { ...facts, 'Content-Range': `bytes */${size}` }).end()
    return
  }
  const { start, end } = part.kind === 'part' ? part : { start: 0, end: size }
  response.writeHead(part.kind === 'part' ? 206 : 200, {
    ...facts,
    'Content-Length': end - start,
    ...(part.kind === 'part' && { 'Content-Range': `bytes ${start}-${end - 1}/${size}` }),
  })
  if (request.method === 'HEAD') {
    response.end()
    return
  }
  response.setTimeout(IDLE_LIMIT_MS, () => response.destroy())
  const whole = await pump(response, file.open({ offset: start, end })).catch(() => false)
  if (whole) response.end()
  else response.destroy()
}
