import { renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { Test } from 'tap'
import { createDriveHolder } from '../../../daemon/holders/drive.ts'
import { flip, narFileOf, narinfoOf, putHostile } from '../../helpers/cache-places.ts'
import { copyToCache, makeChrootStore, makeTempDir, noNix } from '../../helpers/nix-store.ts'
import type { CacheCompression } from '../../helpers/nix-store.ts'
import { createNarPool, noUnpackers } from './child-pool.ts'
import { testHolder, type HolderFixture } from './conformance.ts'

const pool = createNarPool()
await pool.open()
t.teardown(() => pool.close())

const skip = noNix || noUnpackers

/** A fixture whose NARs are packed that way. */
const fixture =
  (compression: CacheCompression) =>
  (t: Test): HolderFixture => {
    const store = makeChrootStore(t)
    const dir = join(makeTempDir(t, 'drive'), 'cache')
    return {
      holder: createDriveHolder({
        ...{ driveId: 'test', dir, pool, expectedStoreDir: '/nix/store' },
      }),
      put(spec) {
        store.add(spec)
        copyToCache(store, dir, Object.keys(spec), { compression })
      },
      nar: store.nar,
      remove(name) {
        rmSync(narFileOf(dir, name))
        rmSync(narinfoOf(dir, name))
        store.delete(name)
      },
      damage: name => flip(narFileOf(dir, name)),
      putHostile: () => putHostile(dir),
      takeAway: () => renameSync(dir, `${dir}-away`),
      bringBack: () => renameSync(`${dir}-away`, dir),
    }
  }

testHolder(t, 'drive, plain', fixture('none'), skip)
testHolder(t, 'drive, xz', fixture('xz'), skip)
