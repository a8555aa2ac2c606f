import { parentPort, workerData } from 'node:worker_threads'
import { createImportDesk, type ImportPlace, type ToImport } from './import-desk.ts'

// The thread of one import, where hashing, packing and the disk keep nobody waiting.

const port = parentPort
if (port === null) throw new Error('import-thread is a worker thread')
const answer = createImportDesk(workerData as ImportPlace)
port.on('message', (message: ToImport) => {
  const reply = answer(message)
  const buffer = reply !== undefined && 'paths' in reply ? reply.buffer : undefined
  port.postMessage(reply, buffer === undefined ? [] : [buffer])
})
