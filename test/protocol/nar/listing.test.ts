import t from 'tap'
import {
  createListing,
  MAX_LISTING_CHARACTERS,
  MAX_LISTING_NODES,
} from '../../../protocol/nar/listing.ts'
import { createNarReader } from '../../../protocol/nar/reader.ts'
import { encodeNar, type NarTree } from '../../../protocol/nar/writer.ts'

const b = (text: string) => Buffer.from(text, 'latin1')
const file = (contents: Buffer, executable = false): NarTree => ({
  type: 'regular',
  contents,
  executable,
})
const folder = (...entries: (readonly [name: Buffer, node: NarTree])[]): NarTree => ({
  type: 'directory',
  entries: entries.map(([name, node]) => ({ name, node })),
})

function list(tree: NarTree): string {
  const listing = createListing()
  const reader = createNarReader(listing.handler)
  reader.write(encodeNar(tree))
  reader.end()
  return listing.json().toString()
}

t.test('the bytes are those that Nix 2.8 writes', t => {
  const tree = folder(
    [b('a'), file(b('hi\n'))],
    [b('empty'), file(b(''))],
    [b('l'), { type: 'symlink', target: b('a') }],
    [b('sub'), folder([b('f'), file(b('deep\n'))])],
    [b('void'), folder()],
    [b('x'), file(b('#!/bin/sh\n'), true)],
  )
  // Written by `nix copy --to 'file:///…?write-nar-listing=1'` of Nix 2.8.0 for the same tree.
  t.equal(
    list(tree),
    '{"version":1,"root":{"type":"directory","entries":{"a":{"type":"regular","size":3,"narOffset":232},"empty":{"type":"regular","size":0,"narOffset":424},"l":{"type":"symlink","target":"a"},"sub":{"type":"directory","entries":{"f":{"type":"regular","size":5,"narOffset":936}}},"void":{"type":"directory","entries":{}},"x":{"type":"regular","size":10,"executable":true,"narOffset":1360}}}}',
  )
  t.equal(list(file(b('abc'))), '{"version":1,"root":{"type":"regular","size":3,"narOffset":96}}')
  t.end()
})

t.test('names are text as well as JSON can hold them', t => {
  const tree = folder(
    [b('quote"\\'), file(b(''))],
    [b('\xff'), { type: 'symlink', target: b('\xfe') }],
    [Buffer.from('ü'), file(b(''))],
    [b('__proto__'), file(b(''))],
  )
  const { root } = JSON.parse(list(tree)) as { root: { entries: Record<string, unknown> } }
  t.strictSame(Object.getOwnPropertyNames(root.entries).sort(), [
    '__proto__',
    'quote"\\',
    'ü',
    '\ufffd',
  ])
  t.match(root.entries['\ufffd'], { type: 'symlink', target: '\ufffd' })
  t.end()
})

t.test('a listing is bounded', t => {
  const many = createListing()
  many.handler.directory?.(undefined)
  const name = b('n')
  t.throws(
    () => {
      for (let n = 0; n <= MAX_LISTING_NODES; n++) many.handler.regular?.(name, 0, false, 0)
    },
    { code: 'NAR_INVALID', message: /more than 1000000 files/ },
  )
  const long = createListing()
  const target = Buffer.alloc(4095, 1)
  t.throws(
    () => {
      for (let n = 0; n < MAX_LISTING_CHARACTERS / 4095; n++) long.handler.symlink?.(name, target)
    },
    { code: 'NAR_INVALID', message: /too large/ },
  )
  t.end()
})
