import { lstat, mkdir, open, rename, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { problemOf } from '../../protocol/errors.ts'

// What goes back with a drive: receipts, the have digest, the want list. A drive is made by anybody, so no link on it is
// followed: nothing outside of it is written, and no half file is left on it.

/** A small file that travels back. */
export interface TravelFile {
  /** Below the shipment: `narwharf/receipts/…`. */
  readonly file: string
  readonly bytes: Uint8Array
}

/** Its part of a file name that every file system takes. */
const plain = (text: string): string => text.replaceAll(/[^0-9A-Za-z._-]/g, '_').slice(0, 100)

/** The name of a receipt: `narwharf/receipts/<site>-<host>-<time>.json`. */
export function receiptFile(site: string | undefined, host: string, at: string): string {
  const time = at.replace(/\.\d+Z$/, 'Z').replaceAll(':', '-')
  const names = [site, host].filter(name => name !== undefined).map(plain)
  return `narwharf/receipts/${names.join('-')}-${time}.json`
}

/** Makes the directories of a file below `root`; throws where one of them is anything else. */
async function makeDirectories(root: string, file: string): Promise<void> {
  const names = dirname(file).split('/')
  for (const [index] of names.entries()) {
    const path = join(root, ...names.slice(0, index + 1))
    await mkdir(path).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'EEXIST') throw error
    })
    if (!(await lstat(path)).isDirectory()) throw new Error(`${path} is no directory`)
  }
}

async function sync(path: string): Promise<void> {
  const handle = await open(path, 'r')
  try {
    // Some file systems know no sync of a directory.
    await handle.sync().catch(() => undefined)
  } finally {
    await handle.close()
  }
}

async function writeOne(root: string, { file, bytes }: TravelFile): Promise<void> {
  await makeDirectories(root, file)
  const target = join(root, file)
  const unfinished = join(dirname(target), `.narwharf-unfinished-${process.pid}`)
  await rm(unfinished, { force: true })
  try {
    const handle = await open(unfinished, 'wx', 0o644)
    try {
      await handle.writeFile(bytes)
      await handle.sync()
    } finally {
      await handle.close()
    }
    await rename(unfinished, target)
  } catch (error) {
    await rm(unfinished, { force: true }).catch(() => undefined)
    throw error
  }
  await sync(dirname(target))
}

/** Writes files to a drive; gives why one could not be written, as a full or read-only drive is no fault of a merge. */
export async function writeBack(
  root: string,
  files: readonly TravelFile[],
): Promise<string | undefined> {
  for (const file of files) {
    try {
      await writeOne(root, file)
    } catch (error) {
      return `${file.file}: ${problemOf(error)}`
    }
  }
  return undefined
}
