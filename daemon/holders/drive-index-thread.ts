import { parentPort, workerData } from 'node:worker_threads'
import { problemOf } from '../../protocol/errors.ts'
import { loadDriveIndex, type LoadOptions } from './drive-index-load.ts'

/** The one word that comes of it. */
export type FromDriveIndex = { readonly paths: number } | { readonly problem: string }

const answer = (message: FromDriveIndex): void => parentPort?.postMessage(message)

try {
  answer({ paths: loadDriveIndex(workerData as LoadOptions) })
} catch (error) {
  answer({ problem: problemOf(error) })
}
