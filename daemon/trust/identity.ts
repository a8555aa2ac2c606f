import { randomBytes } from 'node:crypto'
import { chmod, link, mkdir, open, readFile, rename, rm, stat } from 'node:fs/promises'
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

const isMissing = (error: unknown): boolean => (error as NodeJS.ErrnoException).code === 'ENOENT'

/** Where the public half is kept: `signing-key.secret` has `signing-key.public` beside it, `secret-key` has `public-key`. */
export function publicKeyFileOf(secretKeyFile: string): string {
  const name = basename(secretKeyFile)
  const ofPublic = name.includes('secret') ? name.replace('secret', 'public') : `${name}.public`
  return join(dirname(secretKeyFile), ofPublic)
}

/** Writes a whole file under another name first: after a power cut there is the old content, the new, or none. */
async function writeWhole(
  file: string,
  text: string,
  mode: number,
  place: (temporary: string) => Promise<void>,
): Promise<void> {
  const temporary = `${file}.${randomBytes(6).toString('hex')}.tmp`
  try {
    const handle = await open(temporary, 'wx', mode)
    try {
      await handle.writeFile(text)
      // The umask may have taken bits away, never more than asked for.
      await handle.chmod(mode)
      await handle.sync()
    } finally {
      await handle.close()
    }
    await place(temporary)
  } finally {
    await rm(temporary, { force: true })
  }
}

async function readKeyFile(file: string): Promise<SecretKey | undefined> {
  try {
    const { size } = await stat(file)
    if (size > KEY_FILE_MAX_BYTES)
      fail('KEY_INVALID', { problem: `${file} is too large for a key` })
    return parseSecretKey(await readFile(file, 'utf8'))
  } catch (error) {
    if (isMissing(error)) return undefined
    return fail('KEY_INVALID', { problem: `${file}: ${problemOf(error)}` }, error)
  }
}

/** Takes the secret away from others' eyes; a file that cannot be changed (a read-only mount) is only told of. */
async function mendMode(file: string): Promise<Problem | undefined> {
  const { mode } = await stat(file)
  if ((mode & 0o077) === 0) return undefined
  const was = (mode & 0o777).toString(8).padStart(4, '0')
  const hint = 'whoever may have read it can sign for this host: consider a new key'
  try {
    await chmod(file, 0o600)
    return {
      what: `the signing key ${file} could be read by others (mode ${was}); now it cannot`,
      hint,
    }
  } catch (error) {
    return {
      what: `the signing key ${file} can be read by others (mode ${was}): ${problemOf(error)}`,
      hint: `chmod 600 ${file}; ${hint}`,
    }
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
  let secret = await readKeyFile(secretKeyFile)
  const isNew = secret === undefined
  if (secret === undefined) {
    await mkdir(dirname(secretKeyFile), { recursive: true })
    await writeWhole(
      secretKeyFile,
      formatSecretKey(generateKeyPair(`${hostName}-1`)),
      0o600,
      // Unlike a rename, a link does not replace the key that another process made in this moment.
      temporary =>
        link(temporary, secretKeyFile).catch((error: NodeJS.ErrnoException) => {
          if (error.code !== 'EEXIST') throw error
        }),
    )
    secret = await readKeyFile(secretKeyFile)
    if (secret === undefined)
      return fail('KEY_INVALID', { problem: `${secretKeyFile} has vanished` })
  }
  const mended = await mendMode(secretKeyFile)
  if (mended !== undefined) problems.push(mended)

  const publicKey = formatPublicKey(secret.publicKey)
  const onDisk = await readFile(publicKeyFile, 'utf8').catch(() => undefined)
  // Beside a key that the operator brought, no file is made; one that is there must not lie.
  if (onDisk !== publicKey && (isNew || onDisk !== undefined)) {
    try {
      await writeWhole(publicKeyFile, publicKey, 0o644, temporary =>
        rename(temporary, publicKeyFile),
      )
    } catch (error) {
      problems.push({
        what: `the public key file ${publicKeyFile} is not right and cannot be written: ${problemOf(error)}`,
        hint: 'narwharf nix-conf prints the public key',
      })
    }
  }
  return { secret, publicKey, problems }
}
