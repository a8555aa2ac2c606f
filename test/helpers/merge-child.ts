import { existsSync } from 'node:fs'
import { join } from 'node:path'
import type { Drive } from '../../daemon/drives/drive.ts'
import { createCacheDirWriter } from '../../daemon/holders/cache-dir-writer.ts'
import type { DriveHolder } from '../../daemon/holders/drive.ts'
import { createIntakeThreads } from '../../daemon/holders/intake-start.ts'
import { mergeDrive } from '../../daemon/shipments/merge-drive.ts'
import { aloneHere } from '../../daemon/shipments/merge-share.ts'
import { sampleEntries } from './merge-rig.ts'

// A process that merges a sample cache and says at each path where it is, so that it can be killed there:
// `merge-child.ts DRIVE CACHE`.

const [driveDir = '', cacheDir = ''] = process.argv.slice(2)
await createCacheDirWriter({ dir: cacheDir }).open()
const drive = { id: 'd', name: 'D', dir: driveDir, contents: { cache: true, archives: [] } }
const holder = {
  ready: async () => {},
  indexedPaths: undefined,
  entries: () => sampleEntries(driveDir),
}
const threads = createIntakeThreads()
const { came, plan } = await mergeDrive({
  ...{ drive: drive as unknown as Drive, holder: holder as unknown as DriveHolder },
  ...{ cache: { dir: cacheDir, maxSize: 1e15, reserve: 0 }, threads, storeDir: '/nix/store' },
  ...{ share: aloneHere, everything: false, vouch: false, signal: new AbortController().signal },
  admit: ({ info }) => ({ signatures: info.signatures }),
  has: part => existsSync(join(cacheDir, `${part}.narinfo`)),
  ...{ siteHas: () => false, wanted: () => undefined, repair: async () => undefined },
  ...{ driveStands: async () => true, onDamaged() {} },
  onProgress: ({ done }) => process.send?.(done),
})
const left = plan.count('todo') + plan.count('parked') + plan.count('damaged')
plan.close()
await threads.close()
process.send?.({ came, left })
process.disconnect()
