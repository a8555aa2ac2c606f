import { open, writeSync } from 'node:fs'
import { get } from 'node:http'
import { createInterface } from 'node:readline'
import { promisify } from 'node:util'
import { createEventBus } from '../../daemon/events.ts'
import { pump } from '../../daemon/http/nix-nar.ts'
import { createLog } from '../../daemon/log.ts'
import { createPeering } from '../../daemon/peering/peering.ts'
import type { Members, PeerKey } from '../../daemon/site.ts'
import { createFileStream } from '../../daemon/workers/file-stream.ts'

// One end of bench/peer-stream.ts, a process of its own: `serve HOST FILE SIZE` or `read`. Keys are made from fixed seeds by
// both ends, so that nothing needs to be exchanged.

const { default: NoiseSecretStream } = await import('@hyperswarm/secret-stream')
const keyPairOf = (seed: number) => NoiseSecretStream.keyPair(Buffer.alloc(32, seed))
const keyOf = (seed: number) => keyPairOf(seed).publicKey.toString('hex') as PeerKey

const membersOf = (seed: number): Members => ({
  key: keyOf(seed),
  keyPair: keyPairOf(seed),
  siteName: 'bench',
  isMember: () => true,
  nameOf: key => key,
  list: () => undefined,
  offer: () => 'same',
})

const say = (value: unknown) => void writeSync(1, `${JSON.stringify(value)}\n`)
const openFile = promisify(open)

const makePeering = (seed: number, host: string, file = '', size = 0) =>
  createPeering({
    members: membersOf(seed),
    host,
    port: 0,
    handler: (_request, response) => {
      response.writeHead(200, { 'Content-Length': size })
      const stream = createFileStream(() => openFile(file, 'r'), { offset: 0, end: size })
      void pump(response, stream).then(() => response.end())
    },
    acceptStrangers: () => false,
    events: createEventBus(),
    log: createLog('warn'),
  })

const [role, host = '', file = '', size = ''] = process.argv.slice(2)

if (role === 'serve') {
  say({ port: await makePeering(1, host, file, Number(size)).open() })
} else {
  const peering = makePeering(2, '127.0.0.1')
  const count = async (body: AsyncIterable<Buffer>) => {
    let bytes = 0
    for await (const chunk of body) bytes += chunk.length
    return bytes
  }
  for await (const line of createInterface({ input: process.stdin })) {
    const { url, peer } = JSON.parse(line) as {
      url?: string
      peer?: { host: string; port: number }
    }
    const start = performance.now()
    const bytes =
      peer === undefined
        ? await new Promise<number>((resolve, reject) => {
            get(url ?? '', { agent: false }, response => {
              count(response as AsyncIterable<Buffer>).then(resolve, reject)
            }).on('error', reject)
          })
        : await count((await peering.request(keyOf(1), [peer], { path: '/' })).body)
    say({ bytes, ms: performance.now() - start })
  }
  await peering.close()
}
