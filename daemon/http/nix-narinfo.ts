import type { IncomingMessage, ServerResponse } from 'node:http'
import type { HashPart } from '../../protocol/store-path.ts'
import type { Substitution } from '../substitution/substitution.ts'
import { audienceOf } from './audience.ts'
import type { Counters } from './counters.ts'

// GET and HEAD /<hash part>.narinfo, the hottest path of all: it is answered before any router runs,
// and where the holders are local without a single turn of the event loop.

const NARINFO_URL = /^\/([0-9a-df-np-sv-z]{32})\.narinfo(?:\?.*)?$/
const NOT_FOUND = Buffer.from('404\n')

/** The hash part when the request is for a narinfo. */
export function narinfoHashPart(url: string): HashPart | undefined {
  return NARINFO_URL.exec(url)?.[1] as HashPart | undefined
}

/** A plain 404: what Nix takes for "ask the next substituter". */
export function sendNotFound(response: ServerResponse, head: boolean): void {
  if (response.headersSent) return
  response.writeHead(404, { 'Content-Type': 'text/plain', 'Content-Length': NOT_FOUND.length })
  response.end(head ? undefined : NOT_FOUND)
}

/** Answers a narinfo request: 200 or 404, nothing else ever. */
export function serveNarinfo(
  request: IncomingMessage,
  response: ServerResponse,
  hashPart: HashPart,
  substitution: Substitution,
  counters: Counters,
): void {
  const head = request.method === 'HEAD'
  const send = (text: string | undefined) => {
    if (text === undefined) {
      counters.misses++
      sendNotFound(response, head)
      return
    }
    counters.narinfos++
    response.writeHead(200, { 'Content-Type': 'text/x-nix-narinfo', 'Content-Length': text.length })
    response.end(head ? undefined : text, 'latin1')
  }
  try {
    const found = substitution.narinfo(hashPart, audienceOf(request))
    if (found instanceof Promise) found.then(send, () => send(undefined))
    else send(found)
  } catch {
    send(undefined)
  }
}
