import { spawnSync } from 'node:child_process'
import { mkdirSync, renameSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { judgeManifest } from '../../../daemon/drives/manifest.ts'
import { lookOver, recognise, type FoundPlace } from '../../../daemon/drives/recognise.ts'
import { createDriveFiles } from '../../../daemon/holders/drive-files.ts'
import { formatPublicKey, generateKeyPair } from '../../../protocol/signature.ts'
import { signerOf } from '../../../protocol/signed-json.ts'
import { addManifest } from '../../helpers/drive-shipment.ts'
import { depotKey, depotPublicKey, writeSampleCache } from '../../helpers/merge-rig.ts'
import { tempDir } from '../../helpers/scope.ts'

const INFO = 'StoreDir: /nix/store\n'

/** What `nix-store --export` writes for nothing but its first path's first bytes. */
const ARCHIVE = Buffer.concat([
  Buffer.from('0100000000000000', 'hex'),
  Buffer.from('0d00000000000000', 'hex'),
  Buffer.from('nix-archive-1\0\0\0'),
  Buffer.alloc(100),
])

const look = (dir: string, { keys = [depotPublicKey], folders = true, judged = new Map() } = {}) =>
  recognise({ files: createDriveFiles('test', dir), keys, folders, judged })

const placesOf = async (dir: string): Promise<readonly FoundPlace[]> => (await look(dir)).places

function tree(t: Test, files: Readonly<Record<string, string | Buffer>>): string {
  const dir = tempDir(t, 'drive')
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(join(dir, name, '..'), { recursive: true })
    writeFileSync(join(dir, name), content)
  }
  return dir
}

const PLAIN = { cache: true, shipment: undefined, archives: [] }

t.test('where things lie', async t => {
  t.same(await placesOf(tree(t, {})), [], 'nothing')
  t.same(await placesOf(tree(t, { 'photos/a.jpg': 'x', 'readme.txt': 'y' })), [])
  t.match(await placesOf(tree(t, { 'nix-cache-info': INFO })), [{ folder: '', contents: PLAIN }])
  t.match(
    await placesOf(tree(t, { 'b/nix-cache-info': INFO, 'a/nix-cache-info': INFO, 'c/x': '' })),
    [
      { folder: 'a', contents: PLAIN },
      { folder: 'b', contents: PLAIN },
    ],
  )
  t.same(await placesOf(tree(t, { 'a/b/nix-cache-info': INFO })), [], 'too deep')
  t.same(await placesOf(tree(t, { '.Trash-1000/nix-cache-info': INFO })), [], 'hidden')
  const adopted = await look(tree(t, { 'a/nix-cache-info': INFO }), { folders: false })
  t.same(adopted.places, [], 'a folder named by hand is that folder')
})

t.test('archives', async t => {
  const dir = tree(t, {
    'hello.export': ARCHIVE,
    'UPPER.EXPORT': ARCHIVE,
    'text.export': 'no archive',
    'short.export': ARCHIVE.subarray(0, 20),
    'archive.tar': ARCHIVE,
    'narwharf/archives/x.closure': ARCHIVE,
    'empty.nix-export': '',
  })
  symlinkSync('hello.export', join(dir, 'link.export'))
  spawnSync('mkfifo', [join(dir, 'fifo.export')])
  mkdirSync(join(dir, 'folder.export'))
  t.match(await placesOf(dir), [
    {
      folder: '',
      contents: {
        cache: false,
        archives: ['UPPER.EXPORT', 'hello.export', 'narwharf/archives/x.closure'],
      },
    },
  ])
})

t.test('manifests', async t => {
  const make = (t: Test) => {
    const dir = tempDir(t, 'drive')
    return { dir, infos: writeSampleCache(dir, [{ name: 'a' }, { name: 'b', references: ['a'] }]) }
  }
  const manifestOf = (dir: string) => join(dir, 'narwharf/shipment.json')

  await t.test('signed by a key that counts', async t => {
    const { dir, infos } = make(t)
    const manifest = addManifest(dir, infos, { key: depotKey })
    const [place] = await placesOf(dir)
    t.same(place?.contents.shipment, { manifest, signedBy: 'depot-1' })
    t.same(place?.problems, [])
  })

  await t.test('signed by a stranger', async t => {
    const { dir, infos } = make(t)
    addManifest(dir, infos, { key: generateKeyPair('stranger-1') })
    const [place] = await placesOf(dir)
    t.equal(place?.contents.cache, true)
    t.equal(place?.contents.shipment?.signedBy, undefined)
    t.match(place?.problems, [/signed by stranger-1, which this host does not trust/])
  })

  await t.test('forged under the name of a key that counts', async t => {
    const { dir, infos } = make(t)
    addManifest(dir, infos, { key: generateKeyPair('depot-1') })
    const [place] = await placesOf(dir)
    t.equal(place?.contents.shipment?.signedBy, undefined)
    t.match(place?.problems, [/forged/])
  })

  await t.test('changed after it was signed', async t => {
    const { dir, infos } = make(t)
    const sign = signerOf(depotKey)
    const changed = (bytes: Buffer) =>
      sign(Buffer.from(bytes.toString().replace('depot', 'despot')))
    addManifest(dir, infos, { key: depotKey, sign: changed })
    t.match((await placesOf(dir))[0]?.problems, [/forged/])
  })

  await t.test('no manifest at all', async t => {
    const files: Readonly<Record<string, (file: string) => void>> = {
      'no JSON': file => writeFileSync(file, 'x'),
      empty: file => writeFileSync(file, ''),
      'another JSON': file => writeFileSync(file, '{}\n'),
      'too large': file => truncateSync(file, 2 ** 32),
      'a folder': file => {
        rmSync(file)
        mkdirSync(file)
      },
      'a FIFO': file => {
        rmSync(file)
        spawnSync('mkfifo', [file])
      },
    }
    for (const [what, change] of Object.entries(files)) {
      const { dir, infos } = make(t)
      addManifest(dir, infos, { key: depotKey })
      change(manifestOf(dir))
      const [place] = await placesOf(dir)
      t.match(place, { contents: { cache: true, shipment: undefined } }, what)
      t.match(place?.problems, [/manifest/], `${what}: ${place?.problems[0]}`)
    }
  })

  await t.test('behind a link', async t => {
    const { dir, infos } = make(t)
    addManifest(dir, infos, { key: depotKey })
    renameSync(join(dir, 'narwharf'), `${dir}-narwharf`)
    t.teardown(() => rmSync(`${dir}-narwharf`, { recursive: true }))
    symlinkSync(`${dir}-narwharf`, join(dir, 'narwharf'))
    t.match(await placesOf(dir), [{ contents: PLAIN }])
  })

  await t.test('judged once, and anew when others are trusted', async t => {
    const { dir, infos } = make(t)
    addManifest(dir, infos, { key: depotKey })
    const judged: Parameters<typeof recognise>[0]['judged'] = new Map()
    const signedBy = async (keys: string[]) =>
      (await look(dir, { keys, judged })).places[0]?.contents.shipment?.signedBy
    t.equal(await signedBy([]), undefined)
    t.equal(await signedBy([depotPublicKey]), 'depot-1')
    t.equal(await signedBy([depotPublicKey]), 'depot-1')
    t.equal(await signedBy([formatPublicKey(generateKeyPair('x-1').publicKey)]), undefined)
  })

  t.match(judgeManifest({ bytes: Buffer.from('{'), keys: [] }), { problem: /cannot be read/ })
})

t.test('what shows that something changed', async t => {
  const dir = tree(t, { 'nix-cache-info': INFO, 'a/nix-cache-info': INFO })
  const files = createDriveFiles('test', dir)
  const before = await lookOver(files, ['', 'a'])
  t.equal(await lookOver(files, ['', 'a']), before)
  mkdirSync(join(dir, 'a/narwharf'))
  const after = await lookOver(files, ['', 'a'])
  t.not(after, before)
})
