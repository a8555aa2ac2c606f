import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads'
import { problemOf } from '../../protocol/errors.ts'
import { parseShipment } from '../../protocol/shipment.ts'
import { keyring, parsePublicKey, parseSignature } from '../../protocol/signature.ts'
import { verifySigned } from '../../protocol/signed-json.ts'
import type { DriveShipment } from './drive.ts'

// Whether a manifest may be believed: well-formed, and signed by a key that this host trusts. What is not stays a plain cache.

/** What became of a manifest; without a shipment it could not even be read. */
export interface JudgedManifest {
  readonly shipment?: DriveShipment | undefined
  readonly problem?: string | undefined
}

interface Question {
  readonly bytes: Uint8Array
  /** `name:base64`. */
  readonly keys: readonly string[]
}

/** Bytes of a manifest that is judged on the spot, in a few ms; a larger one has 100,000 roots and takes a thread of its own. */
const HERE_MAX_BYTES = 128 * 1024

/** V8 heap of that thread, MiB: the largest manifest takes ten times its 24 MiB while it is read. */
const JUDGE_HEAP_MIB = 384

/** Nobody needs longer for it, ms. */
const JUDGE_MS = 30_000

const PLAIN = 'it is used as a plain cache'

/** Judges a manifest; never throws. */
export function judgeManifest({ bytes, keys }: Question): JudgedManifest {
  try {
    const signed = parseShipment(bytes)
    const { manifest } = signed
    const ring = keyring(keys.map(parsePublicKey))
    const signedBy = verifySigned(signed, ring)
    if (signedBy !== undefined) return { shipment: { manifest, signedBy } }
    const { keyName } = parseSignature(signed.signature)
    const problem = ring.has(keyName)
      ? `its manifest is forged: the signature is not by ${keyName}; ${PLAIN}`
      : `its manifest is signed by ${keyName}, which this host does not trust; ${PLAIN}`
    return { shipment: { manifest, problem }, problem }
  } catch (error) {
    return { problem: `its manifest cannot be read: ${problemOf(error)}; ${PLAIN}` }
  }
}

/** The same, in a thread where it takes long. */
export async function judgeManifestAside(question: Question): Promise<JudgedManifest> {
  if (question.bytes.length <= HERE_MAX_BYTES) return judgeManifest(question)
  return new Promise(resolve => {
    const worker = new Worker(new URL(import.meta.url), {
      workerData: question,
      resourceLimits: { maxOldGenerationSizeMb: JUDGE_HEAP_MIB },
    })
    const end = (judged: JudgedManifest): void => {
      clearTimeout(timer)
      void worker.terminate()
      resolve(judged)
    }
    const fail = (why: string): void =>
      end({ problem: `its manifest cannot be read: ${why}; ${PLAIN}` })
    const timer = setTimeout(() => fail('it takes too long'), JUDGE_MS).unref()
    worker.unref()
    worker.once('message', end)
    worker.once('error', error => fail(problemOf(error)))
    worker.once('exit', () => fail('the thread that read it has ended'))
  })
}

// The thread's own end.
if (!isMainThread && parentPort !== null && isQuestion(workerData)) {
  parentPort.postMessage(judgeManifest(workerData))
}

function isQuestion(data: unknown): data is Question {
  const { bytes, keys } = (data ?? {}) as Partial<Question>
  return bytes instanceof Uint8Array && Array.isArray(keys)
}
