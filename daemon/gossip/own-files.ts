import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

/** Which log this host writes. */
export interface OwnState {
  readonly epoch: number
  /** 64 hex digits. */
  readonly core: string
}

/** That the log was closed in peace, and how long it was then. */
export interface CleanMark extends OwnState {
  readonly length: number
}

const KEY = /^[0-9a-f]{64}$/

function read(file: string): Partial<CleanMark> | undefined {
  try {
    const value = JSON.parse(readFileSync(file, 'utf8')) as Partial<CleanMark> | null
    const good = Number.isSafeInteger(value?.epoch) && KEY.test(value?.core ?? '')
    return good && value !== null ? value : undefined
  } catch {
    // Not there, or cut short by a power cut: both mean that nothing is known.
    return undefined
  }
}

function write(file: string, value: CleanMark | OwnState): void {
  writeFileSync(`${file}.new`, `${JSON.stringify(value)}\n`, { flush: true })
  renameSync(`${file}.new`, file)
}

/** The two small files beside the logs. */
export function ownFiles(dir: string) {
  const stateFile = join(dir, 'own-log.json')
  const markFile = join(dir, 'closed.json')
  return {
    state: () => read(stateFile) as OwnState | undefined,
    setState: (state: OwnState) => write(stateFile, state),
    /** The mark, which is gone with this: what comes now is unclean until it is written again. */
    takeMark(): CleanMark | undefined {
      const mark = read(markFile)
      rmSync(markFile, { force: true })
      return Number.isSafeInteger(mark?.length) ? (mark as CleanMark) : undefined
    },
    setMark: (mark: CleanMark) => write(markFile, mark),
  }
}
