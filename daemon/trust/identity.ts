import { mkdir, readFile } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import type { Problem } from '../../protocol/api.ts'
import { fail, problemOf } from '../../protocol/errors.ts'
import {
  formatPublicKey,
  formatSecretKey,
  generateKeyPair,
  parseSecretKey,
} from '../../protocol/signature.ts'
import type { SecretKey } from '../../protocol/signature.ts'
import { mendMode, readSmallFile, SECRET_MODE, writeWhole } from '../secret-file.ts'

/** Bytes of a key file read at most: a name of 255 characters and 88 digits fit many times. */
const KEY_FILE_MAX_BYTES = 4096

/** The key this host signs with. */
export interface Identity {
  readonly secret: SecretKey
  /** `name:base64`, as `trusted-public-keys` takes it. */
  readonly publicKey: string
  /** What was found and mended, or is for a person to mend. */
  readonly problems: readonly Problem[]
}

/** Where the public half is kept: `signing-key.secret` has `signing-key.public` beside it, `secret-key` has `public-key`. */
export function publicKeyFileOf(secretKeyFile: string): string {
  const name = basename(secretKeyFile)
  const ofPublic = name.includes('secret') ? name.replace('secret', 'public') : `${name}.public`
  return join(dirname(secretKeyFile), ofPublic)
}

function readKeyFile(file: string): SecretKey | undefined {
  try {
    const content = readSmallFile(file, KEY_FILE_MAX_BYTES)
    return content === undefined ? undefined : parseSecretKey(content.toString('utf8'))
  } catch (error) {
    return fail('KEY_INVALID', { problem: `${file}: ${problemOf(error)}` }, error)
  }
}

/**
 * Reads the signing key of this host, or makes one named `<host name>-1` where there is none: the secret with mode 0600,
 * the public half beside it, both as nix-store --generate-binary-cache-key writes them. Throws KEY_INVALID for a file
 * that is there but no key: it is never overwritten, since clients trust the key it held.
 */
export async function loadIdentity(secretKeyFile: string, hostName: string): Promise<Identity> {
  const problems: Problem[] = []
  const publicKeyFile = publicKeyFileOf(secretKeyFile)
  let secret = readKeyFile(secretKeyFile)
  const isNew = secret === undefined
  if (secret === undefined) {
    await mkdir(dirname(secretKeyFile), { recursive: true })
    const text = formatSecretKey(generateKeyPair(`${hostName}-1`))
    writeWhole(secretKeyFile, text, SECRET_MODE, 'if-absent')
    secret = readKeyFile(secretKeyFile)
    if (secret === undefined)
      return fail('KEY_INVALID', { problem: `${secretKeyFile} has vanished` })
  }
  const mended = mendMode(
    secretKeyFile,
    'signing key',
    'whoever may have read it can sign for this host: consider a new key',
  )
  if (mended !== undefined) problems.push(mended)

  const publicKey = formatPublicKey(secret.publicKey)
  const onDisk = await readFile(publicKeyFile, 'utf8').catch(() => undefined)
  // Beside a key that the operator brought, no file is made; one that is there must not lie.
  if (onDisk !== publicKey && (isNew || onDisk !== undefined)) {
    try {
      writeWhole(publicKeyFile, publicKey, 0o644)
    } catch (error) {
      problems.push({
        what: `the public key file ${publicKeyFile} is not right and cannot be written: ${problemOf(error)}`,
        hint: 'narwharf nix-conf prints the public key',
      })
    }
  }
  return { secret, publicKey, problems }
}
