import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import type { Problem } from '../../protocol/api.ts'
import { keyPairFromSeed, SEED_BYTES, type KeyPairBytes } from '../../protocol/ed25519.ts'
import { fail } from '../../protocol/errors.ts'
import { mendMode, readSmallFile, removeFile, writeWhole } from '../secret-file.ts'
import { machineMark, readKeyPair, writeKeyPair } from './key-file.ts'

/** The host's own key, by which its peers know it. */
export const HOST_KEY_FILE = 'host-key.secret'

/** On which machine the key was made: says when a state directory was copied. */
const MACHINE_FILE = 'host-key.machine'
const MACHINE_FILE_LIMIT_BYTES = 4096

/** The key with what was found and mended, or is for a person to mend. */
export interface HostKey {
  readonly keyPair: KeyPairBytes
  readonly problems: readonly Problem[]
}

export const newKeyPair = (): KeyPairBytes => keyPairFromSeed(randomBytes(SEED_BYTES))

/** Two machines with one key cannot be prevented; it can be seen where a state directory woke up on another machine. */
function checkMachine(stateDir: string, keyFile: string, mark: string | undefined): Problem[] {
  if (mark === undefined) return []
  const file = join(stateDir, MACHINE_FILE)
  let before
  try {
    before = readSmallFile(file, MACHINE_FILE_LIMIT_BYTES)?.toString('latin1').trim()
    if (before === undefined) writeWhole(file, `${mark}\n`, 0o600)
  } catch {
    // A hint that cannot be kept is no reason not to serve.
  }
  if (before === undefined || before === mark) return []
  return [
    {
      what: 'this state directory comes from another machine: both have one host key, and peers cannot tell them apart',
      hint:
        `if the other machine is gone for good: rm ${file}; if it still runs, give this one a key of its own: ` +
        `rm ${keyFile} ${file}, start the daemon anew and join again`,
    },
  ]
}

/** Reads the host's key, or makes one where there is none. Throws KEY_INVALID for a file that is there but no key. */
export function loadHostKey(stateDir: string, machineIdFile: string): HostKey {
  const file = join(stateDir, HOST_KEY_FILE)
  let keyPair = readKeyPair(file)
  if (keyPair === undefined) {
    writeKeyPair(file, 'narwharf-host', newKeyPair(), 'if-absent')
    keyPair = readKeyPair(file) ?? fail('KEY_INVALID', { problem: `${file} has vanished` })
  }
  const mended = mendMode(
    file,
    'host key',
    'whoever may have read it can pass for this host: revoke it and join under a new key',
  )
  const copied = checkMachine(stateDir, file, machineMark(machineIdFile))
  return { keyPair, problems: mended === undefined ? copied : [mended, ...copied] }
}

/** Replaces a key that was revoked; the new one is in force after the next start, as connections stand on the old one. */
export function renewHostKey(stateDir: string): void {
  writeKeyPair(join(stateDir, HOST_KEY_FILE), 'narwharf-host', newKeyPair(), 'replace')
  removeFile(join(stateDir, MACHINE_FILE))
}
