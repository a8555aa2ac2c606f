// Run as a child: writes decisions and holdings without end and says how many decisions are written, until killed.
import { createHash } from 'node:crypto'
import { createCatalog } from '../../daemon/catalog/catalog.ts'
import { encodeNix32 } from '../../protocol/nix32.ts'
import type { StorePath } from '../../protocol/store-path.ts'

const catalog = createCatalog({ file: process.argv[2] ?? '', writerThread: false })
await catalog.open()
const holderId = 'cache-dir:/srv/cache'
await catalog.holders.upsert({
  id: holderId,
  kind: 'cache-dir',
  storeDir: '/nix/store',
  host: 'child',
  up: true,
})
const hashPart = (n: number): string => encodeNix32(createHash('sha1').update(String(n)).digest())

for (let n = 0; ;) {
  const paths = Array.from(
    { length: 300 },
    (_, k) => `/nix/store/${hashPart(n + k)}-pkg-${(n + k) % 1000}` as StorePath,
  )
  const scan = catalog.holdings.replaceAll(holderId, [paths])
  for (const until = n + 100; n < until; n++) {
    catalog.decisions.put(
      { holderId, hashPart: hashPart(n), identity: 'a', epoch: 'e1' },
      `value ${n}`,
    )
  }
  await Promise.all([catalog.flush(), scan])
  process.stdout.write(`${n}\n`)
}
