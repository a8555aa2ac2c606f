// Run as root: becomes nobody, reads a chroot store, and for every line on stdin answers whether it finds the hash parts given.
import { createInterface } from 'node:readline'
import { createNixStoreHolder } from '../../daemon/holders/nix-store.ts'
import type { NarPool } from '../../daemon/workers/nar-pool.ts'
import { isNarwharfError } from '../../protocol/errors.ts'
import { parseHashPart } from '../../protocol/store-path.ts'

const NOBODY = 65534

const [root = '', db = '', ...hashParts] = process.argv.slice(2)
const holder = createNixStoreHolder({ root, storeDir: '/nix/store', db, pool: {} as NarPool })
process.setgroups?.([])
process.setgid?.(NOBODY)
process.setuid?.(NOBODY)
await holder.open()
for await (const _ of createInterface({ input: process.stdin })) {
  try {
    const found = await Promise.all(hashParts.map(part => holder.find(parseHashPart(part))))
    console.log(found.map(holding => (holding === undefined ? 'n' : 'y')).join(' '))
  } catch (error) {
    console.log(isNarwharfError(error) ? error.code : String(error))
  }
}
await holder.close()
