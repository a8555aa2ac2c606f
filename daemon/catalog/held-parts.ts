import { encodeNix32 } from '../../protocol/nix32.ts'
import type { HashPart } from '../../protocol/store-path.ts'
import { connect } from './database.ts'
import { holderIdOf } from './index-writer.ts'
import { createStatements } from './statements.ts'

/** Rows read at a time: small enough that memory stays flat, large enough that a million take seconds. */
const PAGE_PATHS = 5000

/** Which of the paths that a catalog knows are asked for. */
export interface HeldWish {
  /** Paths that are only on drives that this host has seen, too. */
  readonly drives: boolean
  /** Of this host's own paths only those that it tells its peers: what it may not pass on, the site has not. */
  readonly toldOnly: boolean
  /** Hosts whose index also names what is on a drive plugged there, with what is on it. */
  readonly suspects: readonly {
    readonly key: string
    readonly onDrives: (hashPart: HashPart) => boolean
  }[]
}

interface Row {
  readonly id: number
  readonly hash: Buffer
  readonly near: number
  readonly told: number
  readonly drive: number
  readonly peer: number
  readonly suspect: number
}

/**
 * The hash parts of all paths that the site holds where they stay, each once for each name it has, on a connection of its own.
 * Takes some seconds a million and never rests: for a thread that serves nobody.
 */
export function* heldParts(file: string, wish: HeldWish): Generator<HashPart> {
  const database = connect(file, { readOnly: true })
  try {
    const sql = createStatements(database)
    const numberOf = ({ key }: { readonly key: string }) =>
      sql('holders.numberOf').pluck().get(holderIdOf(key)) as number | undefined
    const suspects = JSON.stringify(wish.suspects.map(numberOf).filter(one => one !== undefined))
    for (let after = 0; ;) {
      const rows = sql('held.page').all({ after, limit: PAGE_PATHS, suspects }) as Row[]
      for (const row of rows) {
        const hashPart = encodeNix32(row.hash) as HashPart
        if (isHeld(row, hashPart, wish)) yield hashPart
      }
      const last = rows.at(-1)
      if (last === undefined) return
      after = last.id
    }
  } finally {
    database.close()
  }
}

/** The hash parts of all that one holder has, as the inventory wrote it down. */
export function* partsOfHolder(file: string, holderId: string): Generator<HashPart> {
  const database = connect(file, { readOnly: true })
  try {
    const sql = createStatements(database)
    const holder = sql('holders.numberOf').pluck().get(holderId) as number | undefined
    for (let after = 0; holder !== undefined;) {
      const page = { holder, after, limit: PAGE_PATHS }
      const rows = sql('held.ofHolder').all(page) as Pick<Row, 'id' | 'hash'>[]
      for (const { hash } of rows) yield encodeNix32(hash) as HashPart
      const last = rows.at(-1)
      if (last === undefined) return
      after = last.id
    }
  } finally {
    database.close()
  }
}

function isHeld(row: Row, hashPart: HashPart, { drives, toldOnly, suspects }: HeldWish): boolean {
  if (row.peer === 1 || (row.near === 1 && (row.told === 1 || !toldOnly))) return true
  if (drives && (row.drive === 1 || row.suspect === 1)) return true
  // It may be in the store there, or on the drive that leaves again: sent once too often does less harm than never.
  return row.suspect === 1 && !suspects.some(({ onDrives }) => onDrives(hashPart))
}
