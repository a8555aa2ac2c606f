import { readFileSync } from 'node:fs'
import { createCacheDirWriter } from '../../daemon/holders/cache-dir-writer.ts'
import type { PathInfo } from '../../protocol/path-info.ts'

// A process that writes a cache and says at each piece of a NAR and each path where it is, so that it can be killed there:
// `write-cache.ts DIR FILE...`, each file JSON with a path info and a NAR, bytes in base64.

const PIECE_BYTES = 9973

const [dir = '', ...files] = process.argv.slice(2)
const writer = createCacheDirWriter({ dir })
await writer.open()
for (const file of files) {
  const { info, narHash, nar } = JSON.parse(readFileSync(file, 'utf8')) as {
    info: PathInfo
    narHash: string
    nar: string
  }
  const bytes = Buffer.from(nar, 'base64')
  await writer.add(
    { ...info, narHash: { algorithm: 'sha256', bytes: Buffer.from(narHash, 'base64') } },
    {
      recycle() {},
      destroy() {},
      async *[Symbol.asyncIterator]() {
        for (let at = 0; at < bytes.length; at += PIECE_BYTES) {
          process.send?.('piece')
          yield bytes.subarray(at, at + PIECE_BYTES)
        }
      },
    },
  )
  process.send?.('path')
}
process.disconnect()
