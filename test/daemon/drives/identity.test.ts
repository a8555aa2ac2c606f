import { spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { adoptedId, identify, unescapeUdev } from '../../../daemon/drives/identity.ts'
import type { Mount } from '../../../daemon/drives/mount-table.ts'
import { readSuperblock, SUPERBLOCK_BYTES } from '../../../daemon/drives/superblock.ts'
import { tempDir } from '../../helpers/scope.ts'

const UUID = '0fc63daf-8483-4772-8e79-3d69d8477de4'
const MIB = 1024 * 1024

/** How real file systems are made; where the tool is missing, by their documented layout. */
const MAKERS: readonly (readonly [what: string, args: readonly string[], expected: object])[] = [
  [
    'ext4',
    ['mkfs.ext4', '-q', '-F', '-U', UUID, '-L', 'LABEL 1'],
    { uuid: UUID, label: 'LABEL 1' },
  ],
  ['btrfs', ['mkfs.btrfs', '-q', '-U', UUID, '-L', 'büro'], { uuid: UUID, label: 'büro' }],
  [
    'FAT32',
    ['mkfs.vfat', '-F', '32', '-i', '1a2b3c4d', '-n', 'STICK'],
    { uuid: '1A2B-3C4D', label: 'STICK' },
  ],
  ['FAT16', ['mkfs.vfat', '-F', '16', '-i', '1a2b3c4d'], { uuid: '1A2B-3C4D', label: undefined }],
  ['exFAT', ['mkfs.exfat'], { uuid: /^[0-9A-F]{4}-[0-9A-F]{4}$/ }],
]

t.test('what real file systems say of themselves', async t => {
  for (const [what, [program = '', ...args], expected] of MAKERS) {
    const missing = spawnSync('sh', ['-c', `command -v ${program}`]).status !== 0
    await t.test(what, { skip: missing && `${program} is not installed` }, async t => {
      const file = join(tempDir(t, 'image'), 'image')
      writeFileSync(file, '')
      truncateSync(file, 200 * MIB)
      const made = spawnSync(program, [...args, file], { encoding: 'utf8' })
      t.equal(made.status, 0, made.stderr)
      t.match(readSuperblock(readFileSync(file).subarray(0, SUPERBLOCK_BYTES)), expected)
    })
  }
})

t.test('by the layout', async t => {
  const blank = () => Buffer.alloc(SUPERBLOCK_BYTES)
  t.equal(readSuperblock(blank()), undefined)
  t.equal(readSuperblock(Buffer.alloc(100)), undefined, 'cut off')
  const ntfs = blank()
  ntfs.write('NTFS    ', 3)
  ntfs.writeBigUInt64LE(0x0123456789abcdefn, 0x48)
  t.same(readSuperblock(ntfs), { uuid: '0123456789ABCDEF' })
  const exfat = blank()
  exfat.write('EXFAT   ', 3)
  exfat.writeUInt32LE(0x1a2b3c4d, 0x64)
  t.same(readSuperblock(exfat), { uuid: '1A2B-3C4D' })
  const fat = blank()
  fat.write('FAT32   ', 0x52)
  fat.writeUInt32LE(0x1a2b3c4d, 0x43)
  fat.write('NO NAME    ', 0x47)
  t.same(readSuperblock(fat), { uuid: '1A2B-3C4D', label: undefined })
  const ext = blank()
  ext.writeUInt16LE(0xef53, 0x438)
  t.same(readSuperblock(ext), { uuid: undefined, label: undefined }, 'without either')
  const btrfs = blank()
  btrfs.write('_BHRfS_M', 0x10040)
  btrfs.fill(1, 0x10020, 0x10030)
  t.match(readSuperblock(btrfs), { uuid: '01010101-0101-0101-0101-010101010101' })
})

t.test('names as udev escapes them', async t => {
  t.equal(unescapeUdev('plain'), 'plain')
  t.equal(unescapeUdev('MY\\x20STICK'), 'MY STICK')
  t.equal(unescapeUdev('b\\xc3\\xbcro'), 'büro')
  t.equal(unescapeUdev('büro'), 'büro')
})

const mount = (facts: Partial<Mount> = {}): Mount => ({
  ...{ id: 1, device: '8:17', root: '/', mountPoint: '/', fsType: 'ext4' },
  ...{ source: '/dev/null', readOnly: false },
  ...facts,
})

t.test('who tells', async t => {
  const dir = tempDir(t, 'dev')
  const places = {
    byUuid: join(dir, 'by-uuid'),
    byLabel: join(dir, 'by-label'),
    udevData: join(dir, 'udev'),
  }
  for (const place of Object.values(places)) mkdirSync(place)

  const nobody = await identify(mount(), places)
  t.match(nobody.id, /^[0-9a-f]{32}$/, 'nobody: by what it is mounted from')
  t.equal((await identify(mount(), places)).id, nobody.id, 'always the same')
  t.not((await identify(mount({ source: 'other' }), places)).id, nobody.id)
  t.not((await identify(mount({ root: '/sub' }), places)).id, nobody.id, 'a part of it')

  symlinkSync('/dev/null', join(places.byUuid, UUID))
  symlinkSync('/dev/null', join(places.byLabel, 'MY\\x20STICK'))
  t.same(await identify(mount(), places), { id: UUID, uuid: UUID, label: 'MY STICK' }, 'links')
  t.match((await identify(mount({ root: '/@a' }), places)).id, new RegExp(`^${UUID}-[0-9a-f]{8}$`))

  const other = '11111111-8483-4772-8e79-3d69d8477de4'
  writeFileSync(
    join(places.udevData, 'b8:17'),
    `S:disk/by-uuid/x\nE:ID_FS_UUID=${other}\nE:ID_FS_LABEL_ENC=b\\xc3\\xbcro\n`,
  )
  t.same(await identify(mount(), places), { id: other, uuid: other, label: 'büro' }, 'its notes')
  writeFileSync(join(places.udevData, 'b8:17'), 'E:ID_FS_UUID=../../etc\n')
  t.match((await identify(mount(), places)).id, /^[0-9a-f]{32}$/, 'no UUID at all')
  t.match(adoptedId('/srv/x'), /^dir-[0-9a-f]{32}$/)
})
