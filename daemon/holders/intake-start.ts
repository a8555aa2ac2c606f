import { Worker } from 'node:worker_threads'
import { problemOf } from '../../protocol/errors.ts'
import type { NarCopied, NarCopy, Reading } from './intake-file.ts'
import type { Settled, Settlement } from './intake-settle.ts'
import type { FromIntake, ToIntake } from './intake-thread.ts'

/** The threads that copy NAR files and give them their names: started when there is something to do, ended when there is not. */
export interface IntakeThreads {
  copy(copy: NarCopy): Promise<NarCopied>
  /** Settlements are worked off in their order. */
  settle(settlement: Settlement): Promise<Settled>
  /** What is under way comes to its end, for a moment; then it is cut off. */
  close(): Promise<void>
}

/** Threads that copy: one hashes and unpacks while the other reads. */
const COPIERS = 2

/** How long they stay without work, ms: they cost 10 MB each. */
const IDLE_MS = 30_000

/** How long a thread may take to come to an end by itself, ms; one that reads a drive that hangs does not. */
const ENDS_WITHIN_MS = 3000

/** V8 heap of a thread, MiB; its buffers lie outside. */
const HEAP_MIB = 48
const YOUNG_MIB = 4

type Request =
  | { readonly op: 'copy'; readonly copy: NarCopy }
  | { readonly op: 'settle'; readonly settlement: Settlement }

interface Thread {
  ask(request: Request): Promise<NarCopied | Settled>
  readonly asked: number
  end(): Promise<void>
}

function startThread(reading: Reading): Thread {
  const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js'
  const worker = new Worker(new URL(`./intake-thread.${extension}`, import.meta.url), {
    workerData: reading,
    resourceLimits: { maxOldGenerationSizeMb: HEAP_MIB, maxYoungGenerationSizeMb: YOUNG_MIB },
  })
  const waiting = new Map<
    number,
    { resolve: (reply: NarCopied | Settled) => void; reject: (error: Error) => void }
  >()
  let lastId = 0
  let gone: Error | undefined
  const onGone = (problem: string): void => {
    gone ??= new Error(`a copying thread has ended: ${problem}`)
    for (const { reject } of waiting.values()) reject(gone)
    waiting.clear()
  }
  worker.on('message', ({ id, reply }: FromIntake) => {
    waiting.get(id)?.resolve(reply)
    waiting.delete(id)
    // Only what is waited for keeps the process alive.
    if (waiting.size === 0) worker.unref()
  })
  worker.on('error', error => onGone(problemOf(error)))
  worker.on('exit', () => onGone('it was stopped'))
  return {
    ask: request =>
      new Promise((resolve, reject) => {
        if (gone !== undefined) return reject(gone)
        const message: ToIntake = { id: ++lastId, ...request }
        waiting.set(message.id, { resolve, reject })
        worker.ref()
        worker.postMessage(message)
      }),
    get asked() {
      return waiting.size
    },
    async end() {
      const idle = async () => {
        while (waiting.size > 0) await new Promise(resolve => worker.once('message', resolve))
      }
      let timer: NodeJS.Timeout | undefined
      const late = new Promise(resolve => {
        timer = setTimeout(resolve, ENDS_WITHIN_MS)
      })
      await Promise.race([idle(), late])
      clearTimeout(timer)
      await worker.terminate()
    },
  }
}

/** Makes the threads of an intake, none of which runs yet; one set serves any number of caches. */
export function createIntakeThreads(): IntakeThreads {
  const reading: Reading = new Int32Array(new SharedArrayBuffer(4))
  let copiers: Thread[] = []
  let settler: Thread | undefined
  let underWay = 0
  let timer: NodeJS.Timeout | undefined

  const end = async (): Promise<void> => {
    clearTimeout(timer)
    const ending = [...copiers, ...(settler === undefined ? [] : [settler])]
    copiers = []
    settler = undefined
    await Promise.all(ending.map(thread => thread.end()))
  }
  const busy = async <T>(work: () => Promise<T>): Promise<T> => {
    clearTimeout(timer)
    underWay++
    try {
      return await work()
    } finally {
      underWay--
      if (underWay === 0) timer = setTimeout(() => void end(), IDLE_MS).unref()
    }
  }
  /** The one with least to do; another is started where all have something. */
  const copier = (): Thread => {
    const idlest = copiers.reduce<Thread | undefined>(
      (a, b) => (a === undefined || b.asked < a.asked ? b : a),
      undefined,
    )
    if (idlest !== undefined && (idlest.asked === 0 || copiers.length === COPIERS)) return idlest
    const started = startThread(reading)
    copiers.push(started)
    return started
  }

  return {
    copy: copy => busy(async () => (await copier().ask({ op: 'copy', copy })) as NarCopied),
    settle: settlement =>
      busy(async () => {
        settler ??= startThread(reading)
        return (await settler.ask({ op: 'settle', settlement })) as Settled
      }),
    close: end,
  }
}
