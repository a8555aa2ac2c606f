import { randomFillSync } from 'node:crypto'
import { readFileSync } from 'node:fs'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { join } from 'node:path'
import Hypercore from 'hypercore'
import { createCatalog } from '../../../daemon/catalog/catalog.ts'
import { createEventBus } from '../../../daemon/events.ts'
import { createGossip } from '../../../daemon/gossip/gossip.ts'
import { createLog } from '../../../daemon/log.ts'
import { createMembership } from '../../../daemon/membership/membership.ts'
import { createPeering } from '../../../daemon/peering/peering.ts'
import type { IndexEntry } from '../../../daemon/site.ts'
import { hashOf, parseHash } from '../../../protocol/hash.ts'
import { hashPartOf, parseStorePath } from '../../../protocol/store-path.ts'
import { LIES, type Claim, type Lie } from './lies.ts'

// A member that lies: it has the key and the state of a host that is one, says in its index what it does not have, and answers
// requests for it with what its name promises. Not a daemon with a fault, but the rooms of one in the hands of an enemy.
//
//   node --import register-ts.mjs liar.ts STATE-DIR PORT FILE      FILE: JSON, a list of Claim
//
// At SIGUSR2 its log grows by blocks that are larger than any may be.

const CHUNK_BYTES = 65_536
const DRIP_MS = 200
/** A hypercore takes blocks of 15 MB. */
const HUGE_BYTES = 12 * 2 ** 20
const HUGE_BLOCKS = 8

const lieOf = (storePath: string): Lie => {
  const lie = LIES.find(each => storePath.endsWith(`-lie-${each}`))
  if (lie === undefined) throw new Error(`no lie is told of ${storePath}`)
  return lie
}

/** A string of a NAR: its length, its bytes, zeros up to a multiple of 8. */
const word = (text: string): Buffer => {
  const bytes = Buffer.alloc(8 + Math.ceil(text.length / 8) * 8)
  bytes.writeUInt32LE(text.length)
  bytes.write(text, 8, 'latin1')
  return bytes
}

/** A sound NAR of one file, as long as the honest one and with other bytes in it: nothing but its hash gives it away. */
function falseNar(size: number): Buffer {
  const before = ['nix-archive-1', '(', 'type', 'regular', 'contents'].map(word)
  const length = size - Buffer.concat([...before, Buffer.alloc(8), word(')')]).length
  const prefix = Buffer.alloc(8)
  prefix.writeUInt32LE(length)
  return Buffer.concat([...before, prefix, randomFillSync(Buffer.alloc(length)), word(')')])
}

function answer(lie: Lie, size: number, nar: Buffer, response: ServerResponse): void {
  if (lie === 'endless') {
    response.writeHead(200)
    const more = () => {
      while (!response.destroyed && response.write(Buffer.alloc(CHUNK_BYTES)));
    }
    response.on('drain', more)
    more()
    return
  }
  response.writeHead(200, { 'Content-Length': size })
  if (lie === 'bytes' || lie === 'hash') response.end(nar)
  else if (lie === 'short') response.write(nar.subarray(0, size >> 1), () => response.destroy())
  else if (lie === 'drip') {
    let at = 0
    const timer = setInterval(() => response.write(nar.subarray(at, ++at)), DRIP_MS)
    response.on('close', () => clearInterval(timer))
  }
  // `silent`: headers that promise, and nothing more.
  else response.flushHeaders()
}

const [stateDir = '', port = '', file = ''] = process.argv.slice(2)
const claims = JSON.parse(readFileSync(file, 'utf8')) as readonly Claim[]
const nars = new Map(claims.map(({ storePath, narSize }) => [storePath, falseNar(narSize)]))

const events = createEventBus()
const log = createLog('info', false)
const members = createMembership({ stateDir, hostName: 'liar', events })
await members.open()
const catalog = createCatalog({ file: join(stateDir, 'catalog.sqlite') })
await catalog.open()
const gossip = createGossip({
  members,
  port: Number(port),
  hostName: 'liar',
  version: '0.0.0',
  stateDir,
  indexes: catalog.indexes,
  events,
  log,
})

/** Whatever is asked that has a claimed path's hash part in it gets that path's lie. */
function lie(request: IncomingMessage, response: ServerResponse): void {
  const claim = claims.find(({ storePath }) =>
    request.url?.includes(hashPartOf(parseStorePath(storePath))),
  )
  console.log(`asked for ${request.url}`)
  if (claim === undefined || !request.url?.includes('/nar/')) {
    response.writeHead(404).end()
    return
  }
  const { storePath, narSize } = claim
  answer(lieOf(storePath), narSize, nars.get(storePath) ?? Buffer.alloc(0), response)
}

const peering = createPeering({
  members,
  host: '0.0.0.0',
  port: Number(port),
  handler: lie,
  acceptStrangers: () => false,
  events,
  log,
})
await peering.open()
await gossip.open()
const added = claims.map(({ storePath, narHash, narSize }): IndexEntry => {
  const nar = nars.get(storePath) ?? Buffer.alloc(0)
  return {
    builtHere: true,
    info: {
      storePath: parseStorePath(storePath),
      narHash: lieOf(storePath) === 'hash' ? hashOf('sha256', nar) : parseHash(narHash),
      narSize,
      references: [],
      signatures: [],
    },
  }
})
await gossip.append({ added, removed: [] })

// eslint-disable-next-line @typescript-eslint/unbound-method -- it is called with its own core below
const append = Hypercore.prototype.append
process.once('SIGUSR2', () => {
  Hypercore.prototype.append = async function (blocks) {
    const huge = randomFillSync(Buffer.alloc(HUGE_BYTES))
    for (let count = 0; count < HUGE_BLOCKS; count++) await append.call(this, [huge])
    return append.call(this, blocks)
  }
  const [{ storePath } = { storePath: '' }] = claims
  void gossip.append({ added: [], removed: [parseStorePath(storePath)] })
})
console.log('lying')
