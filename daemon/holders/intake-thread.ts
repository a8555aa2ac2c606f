import { rmSync } from 'node:fs'
import { parentPort, workerData } from 'node:worker_threads'
import { copyNarFile, type NarCopied, type NarCopy, type Reading } from './intake-file.ts'
import { settle, type Settled, type Settlement } from './intake-settle.ts'

/** What a thread of the intake is asked, each with its reply. */
export type ToIntake =
  | { readonly op: 'copy'; readonly id: number; readonly copy: NarCopy }
  | { readonly op: 'settle'; readonly id: number; readonly settlement: Settlement }
export type FromIntake = { readonly id: number; readonly reply: NarCopied | Settled }

const port = parentPort
if (port === null) throw new Error('intake-thread is a worker thread')
const reading = workerData as Reading

async function answer(message: ToIntake): Promise<NarCopied | Settled> {
  if (message.op === 'settle') return settle(message.settlement)
  const { copy } = message
  const copied = await copyNarFile(copy, reading)
  if (copied.state !== 'copied' && copy.target !== undefined) rmSync(copy.target, { force: true })
  return copied
}

// One after the other: their buffers are shared.
let last: Promise<void> = Promise.resolve()
port.on('message', (message: ToIntake) => {
  last = last.then(async () => {
    const reply: FromIntake = { id: message.id, reply: await answer(message) }
    port.postMessage(reply)
  })
})
