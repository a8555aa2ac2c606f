import { rename, rm, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import Corestore from 'corestore'
import Hypercore from 'hypercore'
import type { Logger } from 'pino'
import { problemOf } from '../../protocol/errors.ts'

// The directory of logs: this host's own and a copy of every member's. All of it can be had again, so whatever is wrong
// with it, the daemon goes on with an empty one.

/** What device-file says of a store that was copied or restored: it is not the one that was closed here. */
const MOVED = /invalid device file/i
/** The file by which a store knows its place; made again when missing. */
const PLACE_FILE = 'CORESTORE'

export interface LogStore {
  readonly store: Corestore
  /** Copied, restored from a backup, or begun anew: what was written here last is not known. */
  readonly suspect: boolean
  /** Deletes every log but those. Only before any is open. */
  sweep(keep: ReadonlySet<string>): Promise<void>
  /** Opens the log of that public key (64 hex digits), made when it is not there. */
  open(core: string): Promise<Hypercore>
  /** Gives a log's space back and closes it; what is left of it goes with the next start. */
  drop(core: Hypercore): Promise<void>
  close(): Promise<void>
}

async function openStore(dir: string): Promise<Corestore> {
  const store = new Corestore(dir)
  try {
    await store.ready()
    return store
  } catch (error) {
    await store.close().catch(() => {})
    throw error
  }
}

/** Opens the store, whatever state it is in. */
async function openAnyStore(dir: string, log: Logger) {
  try {
    return { store: await openStore(dir), suspect: false }
  } catch (error) {
    log.warn(
      { err: error },
      `the index logs at ${dir} are not as they were left: ${problemOf(error)}`,
    )
    if (MOVED.test(problemOf(error))) {
      await unlink(join(dir, PLACE_FILE)).catch(() => {})
      const store = await openStore(dir).catch(() => undefined)
      if (store !== undefined) return { store, suspect: true }
    }
  }
  const aside = `${dir}.unreadable`
  await rm(aside, { recursive: true, force: true })
  await rename(dir, aside)
  log.error(`the index logs could not be read: begun anew, the old ones lie in ${aside}`)
  return { store: await openStore(dir), suspect: true }
}

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')

/** Opens the logs in a directory. Rejects only where the directory cannot be written. */
export async function openLogStore(dir: string, log: Logger): Promise<LogStore> {
  const { store, suspect } = await openAnyStore(dir, log)
  return {
    store,
    suspect,
    async sweep(keep) {
      const kept = new Set(
        [...keep].map(core => hex(Hypercore.discoveryKey(Buffer.from(core, 'hex')))),
      )
      let deleted = false
      for await (const { discoveryKey, core } of store.storage.createCoreStream()) {
        if (kept.has(hex(discoveryKey))) continue
        await store.storage.deleteCore(core)
        deleted = true
      }
      if (deleted) await store.storage.compact()
    },
    async open(key) {
      const core = store.get({ key: Buffer.from(key, 'hex') })
      await core.ready()
      return core
    },
    async drop(core) {
      if (core.closing === null && core.length > 0) await core.clear(0, core.length)
      await core.close()
    },
    close: () => store.close(),
  }
}
