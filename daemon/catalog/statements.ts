import { readFileSync } from 'node:fs'
import type { Database, Statement } from 'better-sqlite3'

/** The .sql files beside this one, each a group of statements under `-- name: x` lines. */
const FILES = [
  'holders',
  'paths',
  'holdings',
  'indexes',
  'decisions',
  'verifications',
  'search',
  'jobs',
  'held',
  'drives',
  'held',
] as const

type Group = (typeof FILES)[number]

type Name = `${Group}.${string}`

/** The statements of one connection, by `group.name`; throws for a name that no .sql file has. */
export interface Statements {
  /** Prepared on first use and kept. */
  (name: Name): Statement
  /** Prepared anew: for iterating over several turns, when another may want the same one. */
  unshared(name: Name): Statement
}

const HEADING = /^-- name: (\w+)$/m

// Read once per process: the text never changes while it runs.
const texts = new Map<string, string>()

function readTexts(): void {
  for (const group of FILES) {
    const text = readFileSync(new URL(`./sql/${group}.sql`, import.meta.url), 'utf8')
    const parts = text.split(HEADING)
    for (let i = 1; i + 1 < parts.length; i += 2) {
      texts.set(`${group}.${parts[i]}`, (parts[i + 1] ?? '').trim())
    }
  }
}

/** The statements of one connection. */
export function createStatements(database: Database): Statements {
  if (texts.size === 0) readTexts()
  const prepared = new Map<string, Statement>()
  const unshared = (name: Name): Statement => {
    const text = texts.get(name)
    if (text === undefined) throw new Error(`no statement ${name} in the .sql files`)
    return database.prepare(text)
  }
  const shared = (name: Name): Statement => {
    let statement = prepared.get(name)
    if (statement === undefined) prepared.set(name, (statement = unshared(name)))
    return statement
  }
  return Object.assign(shared, { unshared })
}
