import { randomBytes } from 'node:crypto'
import { Worker } from 'node:worker_threads'
import { fail, NarwharfError } from '../../protocol/errors.ts'
import { HAVE_SALT_BYTES, type MergedShipment } from '../../protocol/have-digest.ts'
import type { Sign } from '../../protocol/signed-json.ts'
import { makeDigest, type HaveTask, type MadeDigest } from './have-task.ts'
import type { FromHave, HaveOrder } from './have-thread.ts'

/** V8 heap of the thread, MiB: a million hash parts, sorted. */
const HEAP_MIB = 512

/** A digest of what the site holds. */
export interface MadeHave {
  readonly bytes: Buffer
  readonly site: string
  readonly createdAt: string
  readonly count: number
  readonly root: string
}

export interface HaveOptions {
  /** The catalog. */
  readonly catalogFile: string
  /** Name of the site, or of the host where it has none. */
  readonly site: () => string
  /** By the host's Nix key. */
  readonly sign: Sign
  readonly toldOnly: boolean
  /** Shipments that were merged, of which this host knows. */
  readonly shipments: () => readonly MergedShipment[]
  /** Hosts with a drive plugged that is not merged yet, and the digests of what is on it. */
  readonly suspects: () => HaveTask['suspects']
  readonly clock?: (() => Date) | undefined
  /** False works on the calling thread: for tests and programs that serve nobody. Default true. */
  readonly thread?: boolean | undefined
}

/** Makes have digests. */
export interface Have {
  make(options?: { readonly drives?: boolean | undefined }): Promise<MadeHave>
  /** A digest of what one holder has, as the inventory wrote it down. */
  ofHolder(holderId: string): Promise<MadeHave>
  /** A new one, as a file that travels back on a drive. */
  travelFile(): Promise<{ readonly file: string; readonly bytes: Buffer }>
}

/** Whatever a name has that FAT32 and people do not like. */
const plain = (name: string): string => name.replaceAll(/[^0-9A-Za-z._-]/g, '-')

function runInThread(task: HaveTask, sign: Sign): Promise<MadeDigest> {
  // The same folder holds .ts in the source and .js in dist.
  const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js'
  const wake = new SharedArrayBuffer(4)
  const worker = new Worker(new URL(`./have-thread.${extension}`, import.meta.url), {
    workerData: { task, wake } satisfies HaveOrder,
    resourceLimits: { maxOldGenerationSizeMb: HEAP_MIB },
  })
  return new Promise((resolve, reject) => {
    worker.on('message', (message: FromHave) => {
      if ('sign' in message) {
        worker.postMessage(sign(Buffer.from(message.sign)))
        Atomics.store(new Int32Array(wake), 0, 1)
        Atomics.notify(new Int32Array(wake), 0)
      } else if ('problem' in message) {
        const { typed, problem } = message
        reject(typed === undefined ? new Error(problem) : new NarwharfError(typed.code, typed.data))
      } else {
        resolve(message)
      }
    })
    worker.once('error', reject)
    worker.once('exit', () => reject(new Error('the thread ended early')))
  })
}

export function createHave(options: HaveOptions): Have {
  const { catalogFile, sign, toldOnly, clock = () => new Date(), thread = true } = options
  const run = async (
    task: Pick<HaveTask, 'drives' | 'suspects' | 'holder'> & { readonly site: string },
  ): Promise<MadeHave> => {
    const { site, ...rest } = task
    const createdAt = clock().toISOString()
    const shipments = task.holder === undefined ? options.shipments() : []
    const about = { site, createdAt, shipments, salt: randomBytes(HAVE_SALT_BYTES) }
    const whole = { file: catalogFile, toldOnly, ...rest, about }
    try {
      const { digest, count, root } = thread
        ? await runInThread(whole, sign)
        : makeDigest(whole, sign)
      return { bytes: Buffer.from(digest), site, createdAt, count, root }
    } catch (error) {
      if (error instanceof NarwharfError) throw error
      const problem = (error as Error).message
      return fail('CATALOG_UNUSABLE', { file: catalogFile, problem }, error)
    }
  }
  const make: Have['make'] = ({ drives = false } = {}) =>
    run({ site: options.site(), drives, suspects: options.suspects() })
  return {
    make,
    ofHolder: holder => run({ site: options.site(), drives: false, suspects: [], holder }),
    async travelFile() {
      const { bytes, site, createdAt } = await make()
      const time = createdAt.replace(/\.\d+Z$/, 'Z').replaceAll(':', '-')
      return { file: `narwharf/have/${plain(site)}-${time}.have`, bytes }
    },
  }
}
