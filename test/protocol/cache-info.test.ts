import { readFileSync } from 'node:fs'
import t from 'tap'
import {
  CACHE_INFO_MAX_BYTES,
  PRIORITY_MAX,
  formatCacheInfo,
  parseCacheInfo,
} from '../../protocol/cache-info.ts'
import type { CacheInfo } from '../../protocol/cache-info.ts'
import { isNarwharfError } from '../../protocol/errors.ts'
import { mutations } from '../helpers/mutate.ts'

const NIX = '/nix/store'

t.test('read', async t => {
  const cases: [name: string, text: string | Buffer, info: CacheInfo][] = [
    [
      'what Nix writes',
      readFileSync('test/fixtures/protocol/nix-cache-info'),
      { storeDir: NIX, wantMassQuery: false, priority: undefined },
    ],
    [
      'what cache.nixos.org says',
      'StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n',
      { storeDir: NIX, wantMassQuery: true, priority: 40 },
    ],
    [
      'by hand: CRLF, no space, no last newline, empty lines, other fields',
      'StoreDir:/gnu/store \r\n\r\nPriority:  0\r\nX-Note: a:b\r\n\nWantMassQuery:0',
      { storeDir: '/gnu/store', wantMassQuery: false, priority: 0 },
    ],
  ]
  for (const [name, text, info] of cases)
    t.strictSame(parseCacheInfo(Buffer.from(text)), info, name)
})

t.test('written, and read again', async t => {
  const text = 'StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 30\n'
  t.equal(formatCacheInfo({ storeDir: NIX, wantMassQuery: true, priority: 30 }), text)
  t.equal(formatCacheInfo(parseCacheInfo(Buffer.from(text))), text)
  const silent = formatCacheInfo({ storeDir: NIX, wantMassQuery: false })
  t.equal(silent, 'StoreDir: /nix/store\nWantMassQuery: 0\n')
})

t.test('refused', async t => {
  const cases: [name: string, text: string, problem: RegExp][] = [
    ['nothing', '', /no StoreDir/],
    ['a captive portal', '<html></html>\n', /without a colon/],
    ['not ASCII', 'StoreDir: /nix/störe\n', /not ASCII/],
    ['relative store', 'StoreDir: nix/store\n', /absolute/],
    ['climbing store', 'StoreDir: /nix/../etc\n', /absolute/],
    ['empty store', 'StoreDir: \n', /absolute/],
    ['two stores', 'StoreDir: /a\nStoreDir: /b\n', /StoreDir given twice/],
    ['odd WantMassQuery', 'StoreDir: /a\nWantMassQuery: yes\n', /WantMassQuery yes/],
    ['negative priority', 'StoreDir: /a\nPriority: -1\n', /Priority -1/],
    ['priority beyond an int', `StoreDir: /a\nPriority: ${PRIORITY_MAX + 1}\n`, /Priority/],
    ['priority of 400 digits', `StoreDir: /a\nPriority: ${'1'.repeat(400)}\n`, /Priority/],
    ['too large', `StoreDir: /a\n${'\n'.repeat(CACHE_INFO_MAX_BYTES)}`, /larger than 16384/],
  ]
  for (const [name, text, message] of cases) {
    const expected = { code: 'CACHE_INFO_INVALID', message }
    t.throws(() => parseCacheInfo(Buffer.from(text)), expected, name)
  }
})

t.test('3000 damaged files', async t => {
  const original = Buffer.from('StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 30\n')
  let refused = 0
  for (const bytes of mutations(original, 3000, 5)) {
    try {
      parseCacheInfo(bytes)
    } catch (error) {
      refused++
      if (!isNarwharfError(error, 'CACHE_INFO_INVALID')) t.error(error, bytes.toString('latin1'))
    }
  }
  t.ok(refused > 500 && refused < 3000, `${refused} refused`)
})
