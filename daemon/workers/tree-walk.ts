import { lstatSync, readdirSync, type Dirent } from 'node:fs'
import { fail } from '../../protocol/errors.ts'
import { MAX_DEPTH } from '../../protocol/nar/wire.ts'
import { failedOn } from './fs-errors.ts'

// Names and paths are kept as latin1 strings: one character is one byte, so that any name survives, comparing strings is
// comparing bytes, and a folder's names are strings instead of as many Buffer objects.

/** What a walk has come to. */
export type WalkStep = 'regular' | 'directory' | 'symlink' | 'leave'

/** A walk over a tree in the order of its NAR; the fields tell of the step made last. */
export interface TreeWalk {
  /** Goes one step; undefined at the end. Throws HOLDING_GONE, HOLDER_UNREADABLE, NAR_INVALID (special files, depth). */
  next(): WalkStep | undefined
  /** Bytes of the node's name; undefined for the root. */
  name(): Buffer | undefined
  /** What file system calls take for the node: a string where all is ASCII, which is cheaper. */
  path(): string | Buffer
  /** The node's path for messages. */
  label(): string
  /** Whether the node is the root. */
  isRoot(): boolean
}

/** One folder on the way down. */
interface OpenFolder {
  readonly path: string
  readonly entries: readonly Entry[]
  next: number
}

interface Entry {
  readonly name: string
  /** Undefined where the file system does not tell in its directories. */
  readonly type: WalkStep | undefined
}

const NON_ASCII = /[\u0080-\u00ff]/

const toFsPath = (path: string): string | Buffer =>
  NON_ASCII.test(path) ? Buffer.from(path, 'latin1') : path

type Typed = Pick<Dirent, 'isFile' | 'isDirectory' | 'isSymbolicLink'>

const typeOf = (typed: Typed): WalkStep | undefined => {
  if (typed.isFile()) return 'regular'
  if (typed.isDirectory()) return 'directory'
  return typed.isSymbolicLink() ? 'symlink' : undefined
}

const byName = (a: Entry, b: Entry): number => (a.name < b.name ? -1 : 1)

/** Node looks up types that the file system leaves out, and cannot where paths are not text; then this walk does it. */
function readFolder(path: string | Buffer): Entry[] {
  try {
    const found = readdirSync(path, { encoding: 'latin1', withFileTypes: true })
    return found.map(entry => ({ name: entry.name, type: typeOf(entry) }))
  } catch (error) {
    const { code, syscall } = error as NodeJS.ErrnoException
    if (syscall !== 'lstat' && code !== 'ERR_INVALID_ARG_TYPE') throw error
    return readdirSync(path, 'latin1').map(name => ({ name, type: undefined }))
  }
}

/** Starts a walk; nothing is read before the first step. */
export function createTreeWalk(root: string): TreeWalk {
  const folders: OpenFolder[] = []
  const rootPath = Buffer.from(root).toString('latin1')
  let begun = false
  let path = rootPath
  let name: string | undefined
  /** Folders above the node. */
  let depth = 0

  const label = (): string => Buffer.from(path, 'latin1').toString()

  const lookUpType = (): WalkStep => {
    const type = typeOf(lstatSync(toFsPath(path)))
    if (type !== undefined) return type
    const problem = `${label()} is neither a file, a directory nor a symlink`
    return fail('NAR_INVALID', { problem, offset: 0 })
  }

  const enter = (): void => {
    folders.push({ path, entries: readFolder(toFsPath(path)).sort(byName), next: 0 })
  }

  const step = (): WalkStep | undefined => {
    const folder = folders[folders.length - 1]
    if (folder === undefined) {
      if (begun) return undefined
      begun = true
      return lookUpType()
    }
    const entry = folder.entries[folder.next]
    if (entry === undefined) {
      folders.pop()
      path = folder.path
      depth = folders.length
      return 'leave'
    }
    folder.next++
    name = entry.name
    path = `${folder.path}/${entry.name}`
    depth = folders.length
    // No reader takes a node below so many.
    if (depth >= MAX_DEPTH) {
      fail('NAR_INVALID', { problem: `folders are nested deeper than ${MAX_DEPTH}`, offset: 0 })
    }
    return entry.type ?? lookUpType()
  }

  return {
    next() {
      try {
        const type = step()
        if (type === 'directory') enter()
        return type
      } catch (error) {
        return failedOn(label(), error)
      }
    },
    name: () => (depth === 0 || name === undefined ? undefined : Buffer.from(name, 'latin1')),
    path: () => toFsPath(path),
    label,
    isRoot: () => depth === 0,
  }
}
