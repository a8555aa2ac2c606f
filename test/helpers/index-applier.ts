// Run as a child: applies a peer's index block by block from where the catalog stands, and says how far it is, until killed.
import { createCatalog } from '../../daemon/catalog/catalog.ts'
import type { PeerKey } from '../../daemon/site.ts'
import { encodeIndexAdds } from '../../protocol/index-block-encode.ts'
import { deflate, syntheticPaths } from './index-paths.ts'

const catalog = createCatalog({ file: process.argv[2] ?? '', writerThread: false })
await catalog.open()
const key = 'aa'.repeat(32) as PeerKey
const place = { firstPosition: 0, positionOf: () => undefined }
const blocks = encodeIndexAdds([...syntheticPaths(6000)], place, deflate)
await catalog.indexes.begin(key, { epoch: 1, core: '1'.padStart(64, '0'), host: 'far' })
for (;;) {
  const next = catalog.indexes.position(key)?.blocks ?? 0
  if (next < blocks.length) await catalog.indexes.apply(key, 1, next, blocks.slice(next, next + 1))
  process.stdout.write(`${catalog.indexes.position(key)?.blocks}\n`)
}
