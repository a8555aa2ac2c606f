import { chmodSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import type { NarTree } from '../../protocol/nar/writer.ts'
import { seededRandom } from './mutate.ts'

const latin1 = (text: string) => Buffer.from(text, 'latin1')

/** Bytes that are the same on every run. */
export function noise(length: number, seed: number): Buffer {
  const random = seededRandom(seed)
  const bytes = Buffer.alloc(length)
  for (let at = 0; at + 4 <= length; at += 4) bytes.writeUInt32LE(random() * 0x1_0000_0000, at)
  return bytes
}

const file = (contents: Buffer, executable = false): NarTree => ({
  type: 'regular',
  contents,
  executable,
})
const folder = (...entries: (readonly [name: string, node: NarTree])[]): NarTree => ({
  type: 'directory',
  entries: entries.map(([name, node]) => ({ name: latin1(name), node })),
})

const deep = (levels: number): NarTree =>
  levels === 0 ? file(latin1('bottom')) : folder(['d', deep(levels - 1)])

/** A tree with one of everything that a store path may have. Sizes stand around the chunk's and the segment's. */
export function sampleTree(): NarTree {
  const sizes = [0, 1, 7, 8, 9, 4095, 262_143, 262_144, 262_145, 1_048_575, 1_048_576, 3_000_001]
  return folder(
    ['sizes', folder(...sizes.map((size, n) => [`of-${size}`, file(noise(size, n))] as const))],
    [
      'many',
      folder(...Array.from({ length: 1000 }, (_, n) => [`f${n}`, file(noise(n, n))] as const)),
    ],
    ['bin', folder(['run', file(latin1('#!/bin/sh\n'), true)], ['empty', file(latin1(''), true)])],
    [
      'links',
      folder(
        ['absolute', { type: 'symlink', target: latin1('/etc/passwd') }],
        ['dangling', { type: 'symlink', target: latin1('../../nowhere') }],
        ['odd', { type: 'symlink', target: latin1('\xff\xfe\n') }],
        ['long', { type: 'symlink', target: latin1('x'.repeat(4095)) }],
        ['loop', { type: 'symlink', target: latin1('loop') }],
      ),
    ],
    [
      'names',
      folder(
        ...[
          'a',
          'a.b',
          'a-b',
          'A',
          '\xff\xfe',
          'new\nline',
          'back\\slash',
          ' ',
          '...',
          'n'.repeat(255),
        ].map(name => [name, file(latin1(name))] as const),
        ['\xc3\xbc', folder(['\xe9', file(latin1('below a name that is not ASCII'))])],
      ),
    ],
    ['void', folder()],
    ['deep', deep(60)],
  )
}

/** Writes a tree to disk. */
export function writeTree(path: Buffer | string, tree: NarTree): void {
  switch (tree.type) {
    case 'regular':
      writeFileSync(path, tree.contents)
      if (tree.executable === true) chmodSync(path, 0o755)
      break
    case 'symlink':
      symlinkSync(Buffer.from(tree.target), path)
      break
    case 'directory':
      mkdirSync(path)
      for (const { name, node } of tree.entries) {
        writeTree(Buffer.concat([Buffer.from(path), Buffer.from('/'), name]), node)
      }
  }
}
