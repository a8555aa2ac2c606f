import { fail } from '../errors.ts'
import {
  ALIGNMENT,
  encodeStrings,
  MAGIC,
  MAX_DEPTH,
  MAX_NAME_BYTES,
  MAX_TARGET_BYTES,
  nameProblem,
  paddingOf,
  sizeOfString,
  targetProblem,
} from './wire.ts'

// The pieces of a NAR between its variable parts, encoded once. Each function writes at a position of a buffer that has
// room (see MAX_NODE_BYTES) and returns the position behind what it wrote: a serialiser calls them millions of times.

const NAR_OPEN = encodeStrings(MAGIC)
const ENTRY_OPEN = encodeStrings('entry', '(', 'name')
const ENTRY_NODE = encodeStrings('node')
const DIRECTORY_OPEN = encodeStrings('(', 'type', 'directory')
const REGULAR_OPEN = encodeStrings('(', 'type', 'regular', 'contents')
const EXECUTABLE_OPEN = encodeStrings('(', 'type', 'regular', 'executable', '', 'contents')
const SYMLINK_OPEN = encodeStrings('(', 'type', 'symlink', 'target')
const CLOSE = encodeStrings(')')
const CLOSE_BOTH = encodeStrings(')', ')')

/** The most that one call of a function below writes (bytes): a symlink as an entry, with longest name and target. */
export const MAX_NODE_BYTES =
  NAR_OPEN.length +
  ENTRY_OPEN.length +
  sizeOfString(MAX_NAME_BYTES) +
  ENTRY_NODE.length +
  SYMLINK_OPEN.length +
  sizeOfString(MAX_TARGET_BYTES) +
  CLOSE_BOTH.length

/** 2^32, what the upper half of a length counts. */
const UPPER_HALF = 0x1_0000_0000

function put(target: Buffer, at: number, piece: Buffer): number {
  target.set(piece, at)
  return at + piece.length
}

function putLength(target: Buffer, at: number, length: number): number {
  target.writeUInt32LE(length % UPPER_HALF, at)
  target.writeUInt32LE(Math.floor(length / UPPER_HALF), at + 4)
  return at + ALIGNMENT
}

function putBytes(target: Buffer, at: number, bytes: Uint8Array): number {
  const start = putLength(target, at, bytes.length)
  target.set(bytes, start)
  return putPadding(target, start + bytes.length, bytes.length)
}

/** Writes the zero bytes behind a string of `length` bytes. */
export function putPadding(target: Buffer, at: number, length: number): number {
  const end = at + paddingOf(length)
  target.fill(0, at, end)
  return end
}

/** Writes what stands before a node: the magic for the root (no name), the head of an entry for others. */
export function putNodeStart(target: Buffer, at: number, name: Uint8Array | undefined): number {
  if (name === undefined) return put(target, at, NAR_OPEN)
  return put(target, putBytes(target, put(target, at, ENTRY_OPEN), name), ENTRY_NODE)
}

/** Opens a directory; its entries and {@link putNodeEnd} follow. */
export const putDirectory = (target: Buffer, at: number): number => put(target, at, DIRECTORY_OPEN)

/** Opens a regular file of `size` bytes; the contents, {@link putPadding} and {@link putNodeEnd} follow. */
export const putRegular = (target: Buffer, at: number, size: number, executable: boolean): number =>
  putLength(target, put(target, at, executable ? EXECUTABLE_OPEN : REGULAR_OPEN), size)

/** Writes a symlink; {@link putNodeEnd} follows. */
export const putSymlink = (target: Buffer, at: number, linkTarget: Uint8Array): number =>
  putBytes(target, put(target, at, SYMLINK_OPEN), linkTarget)

/** Closes a node, and the entry that it stands in unless it is the root. */
export const putNodeEnd = (target: Buffer, at: number, isRoot: boolean): number =>
  put(target, at, isRoot ? CLOSE : CLOSE_BOTH)

/** A tree in memory. A directory's entries may come in any order. */
export type NarTree =
  | {
      readonly type: 'regular'
      readonly contents: Uint8Array
      readonly executable?: boolean | undefined
    }
  | { readonly type: 'symlink'; readonly target: Uint8Array }
  | {
      readonly type: 'directory'
      readonly entries: readonly { readonly name: Uint8Array; readonly node: NarTree }[]
    }

/**
 * The NAR of a small tree, whole in memory. Throws NAR_INVALID for what no reader would take: forbidden or double names,
 * bad targets, more than 64 levels.
 */
export function encodeNar(tree: NarTree): Buffer {
  const pieces: Buffer[] = []
  let offset = 0
  const refuse = (problem: string): never => fail('NAR_INVALID', { problem, offset })
  const add = (piece: Buffer): void => {
    pieces.push(piece)
    offset += piece.length
  }
  const write = (room: number, writer: (target: Buffer) => number): void => {
    const target = Buffer.allocUnsafe(room)
    add(target.subarray(0, writer(target)))
  }

  // The depth is bounded, so this may call itself.
  const encode = (node: NarTree, name: Uint8Array | undefined, depth: number): void => {
    if (depth >= MAX_DEPTH) refuse(`folders are nested deeper than ${MAX_DEPTH}`)
    write(MAX_NODE_BYTES, target => putNodeStart(target, 0, name))
    switch (node.type) {
      case 'regular': {
        const { contents, executable } = node
        const mark = executable === true
        write(MAX_NODE_BYTES, target => putRegular(target, 0, contents.length, mark))
        add(Buffer.from(contents))
        write(ALIGNMENT, target => putPadding(target, 0, contents.length))
        break
      }
      case 'symlink': {
        const problem = targetProblem(node.target)
        if (problem !== undefined) refuse(problem)
        write(MAX_NODE_BYTES, target => putSymlink(target, 0, node.target))
        break
      }
      case 'directory': {
        write(MAX_NODE_BYTES, target => putDirectory(target, 0))
        const entries = node.entries.toSorted((a, b) => Buffer.compare(a.name, b.name))
        let previous: Uint8Array | undefined
        for (const entry of entries) {
          const problem = nameProblem(entry.name)
          if (problem !== undefined) refuse(problem)
          if (previous !== undefined && Buffer.compare(previous, entry.name) === 0) {
            refuse('a name comes twice in one folder')
          }
          previous = entry.name
          encode(entry.node, entry.name, depth + 1)
        }
      }
    }
    write(MAX_NODE_BYTES, target => putNodeEnd(target, 0, name === undefined))
  }

  encode(tree, undefined, 0)
  return Buffer.concat(pieces, offset)
}
