import { readFileSync } from 'node:fs'
import type { Database, Statement } from 'better-sqlite3'

/** The .sql files beside this one, each a group of statements under `-- name: x` lines. */
const FILES = ['holders', 'holdings', 'decisions', 'verifications', 'search'] as const

type Group = (typeof FILES)[number]

/** Looks a statement up as `group.name`, prepared on first use and kept. Throws for a name that no .sql file has. */
export type Statements = (name: `${Group}.${string}`) => Statement

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
  return name => {
    let statement = prepared.get(name)
    if (statement === undefined) {
      const text = texts.get(name)
      if (text === undefined) throw new Error(`no statement ${name} in the .sql files`)
      statement = database.prepare(text)
      prepared.set(name, statement)
    }
    return statement
  }
}
