import { renameSync } from 'node:fs'
import type { Problem } from '../../protocol/api.ts'
import type { KeyPairBytes } from '../../protocol/ed25519.ts'
import { fail, problemOf } from '../../protocol/errors.ts'
import {
  formatMemberList,
  lastLineOf,
  MEMBER_LIST_MAX_BYTES,
  parseMemberList,
  signStatement,
  withLines,
  type Line,
  type MemberList,
  type Statement,
} from '../../protocol/member-list.ts'
import { membershipOf, type Membership } from '../../protocol/membership.ts'
import { readSmallFile, SECRET_MODE, writeWhole } from '../secret-file.ts'

/** The site's member list in force on this host, and what it comes to. */
export interface Site {
  readonly list: MemberList
  readonly view: Membership
  /** As it travels. */
  readonly bytes: Buffer
}

/** Keeps the list of one host in memory and in one file. */
export interface Roster {
  /** Undefined while the host belongs to no site. */
  readonly site: Site | undefined
  readonly problems: readonly Problem[]
  /** Puts a list in force, on the disk first. Throws what the file system throws; nothing is changed then. */
  set(list: MemberList): void
  /** Merges a list from outside; see `Members.offer`. */
  take(bytes: Uint8Array): 'newer' | 'same' | 'older'
}

const siteOf = (list: MemberList): Site => ({
  list,
  view: membershipOf(list),
  bytes: formatMemberList(list),
})

/** Signs statements one after the other, so that each names the one before it. */
export function signAll(
  list: MemberList,
  statements: readonly Statement[],
  signer: KeyPairBytes,
): Line[] {
  let previous = lastLineOf(list, signer.publicKey.toString('hex'))
  return statements.map(statement => {
    const line = signStatement(list.siteKey, statement, signer, previous)
    previous = line.id
    return line
  })
}

/** Reads the list of a file. One that is damaged is put aside for a person to look at, and the host belongs to no site. */
function read(file: string): { site?: Site; problem?: Problem } {
  try {
    const bytes = readSmallFile(file, MEMBER_LIST_MAX_BYTES)
    return bytes === undefined ? {} : { site: siteOf(parseMemberList(bytes)) }
  } catch (error) {
    const aside = `${file}.damaged`
    renameSync(file, aside)
    return {
      problem: {
        what: `the member list of this host is damaged and was put aside as ${aside}: ${problemOf(error)}`,
        hint: 'join the site again: any admin makes a code with narwharf invite; its admins: narwharf site restore',
      },
    }
  }
}

/** Opens the list of a file; `onChange` is told of every list that comes into force. */
export function openRoster(file: string, onChange: () => void): Roster {
  const found = read(file)
  let { site } = found
  let unwritten: string | undefined
  const write = (bytes: Buffer) => writeWhole(file, bytes, SECRET_MODE)
  const problems = (): Problem[] => {
    const all = found.problem === undefined || site !== undefined ? [] : [found.problem]
    if (unwritten === undefined) return all
    const what = `a newer member list is in force, but could not be written to ${file}: ${unwritten}`
    return [...all, { what, hint: 'make room on the disk: until then a restart forgets it' }]
  }
  return {
    get site() {
      return site
    },
    get problems() {
      return problems()
    },
    set(list) {
      const next = siteOf(list)
      write(next.bytes)
      site = next
      unwritten = undefined
      onChange()
    },
    take(bytes) {
      if (site === undefined) return fail('MEMBER_LIST_INVALID', { problem: 'of a foreign site' })
      if (site.bytes.equals(bytes)) return 'same'
      const { list } = site
      const offered = parseMemberList(bytes, list)
      if (offered.siteKey !== list.siteKey) {
        return fail('MEMBER_LIST_INVALID', { problem: 'of a foreign site' })
      }
      const merged = siteOf(withLines(list, offered.lines.values()))
      if (merged.bytes.equals(site.bytes)) return 'older'
      try {
        write(merged.bytes)
        unwritten = undefined
      } catch (error) {
        // A revocation must cut off at once, whatever the disk says; the next list is written whole again.
        unwritten = problemOf(error)
      }
      site = merged
      onChange()
      return 'newer'
    },
  }
}
