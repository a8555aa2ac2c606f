import { createHash } from 'node:crypto'
import { fail, problemOf } from '../../protocol/errors.ts'
import {
  keyPairFromSeed,
  PUBLIC_KEY_BYTES,
  SECRET_KEY_BYTES,
  SEED_BYTES,
  type KeyPairBytes,
} from '../../protocol/ed25519.ts'
import { readSmallFile, SECRET_MODE, writeWhole, type Placing } from '../secret-file.ts'

// A key pair on the disk: `name:base64` of seed and public key, the form of Nix's own secret keys.

/** Bytes of a key file at most: one line of about 110. */
const KEY_FILE_LIMIT_BYTES = 4096

const FORM = /^[a-z-]{1,40}:([A-Za-z0-9+/]{86}==)\n?$/

/**
 * Reads a key pair; undefined where there is no file. Throws KEY_INVALID, which never quotes the file, for one that is no key:
 * it is not overwritten, since other hosts know this one by it.
 */
export function readKeyPair(file: string): KeyPairBytes | undefined {
  let content
  try {
    content = readSmallFile(file, KEY_FILE_LIMIT_BYTES)
  } catch (error) {
    return fail('KEY_INVALID', { problem: `${file}: ${problemOf(error)}` }, error)
  }
  if (content === undefined) return undefined
  const raw = Buffer.from(FORM.exec(content.toString('latin1'))?.[1] ?? '', 'base64')
  if (raw.length !== SECRET_KEY_BYTES) {
    return fail('KEY_INVALID', { problem: `${file} is damaged, or no key of narwharf’s` })
  }
  const pair = keyPairFromSeed(raw.subarray(0, SEED_BYTES))
  if (!pair.publicKey.equals(raw.subarray(-PUBLIC_KEY_BYTES))) {
    return fail('KEY_INVALID', { problem: `${file} is damaged: its halves do not belong together` })
  }
  return pair
}

/** Writes a key pair that only the daemon's user reads. */
export const writeKeyPair = (
  file: string,
  name: string,
  { secretKey }: KeyPairBytes,
  placing: Placing,
): void => writeWhole(file, `${name}:${secretKey.toString('base64')}\n`, SECRET_MODE, placing)

/**
 * A mark of the machine, from its /etc/machine-id: hashed for this purpose alone, as machine-id(5) asks. Undefined where it
 * has none.
 */
export function machineMark(machineIdFile: string): string | undefined {
  try {
    const id = readSmallFile(machineIdFile, KEY_FILE_LIMIT_BYTES)?.toString('latin1').trim()
    if (!id) return undefined
    return createHash('sha256').update(`narwharf machine 1\n${id}`).digest('hex').slice(0, 32)
  } catch {
    return undefined
  }
}
