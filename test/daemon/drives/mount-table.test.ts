import t from 'tap'
import { drivesOf, parseMountTable } from '../../../daemon/drives/mount-table.ts'
import { createMountWatch, readMountTable } from '../../../daemon/drives/watch.ts'

const UNDER = ['/media', '/run/media', '/mnt']

/** One line as the kernel writes it. */
const line = (
  id: number,
  device: string,
  mountPoint: string,
  { root = '/', fsType = 'ext4', source = '/dev/sdb1', options = 'rw,relatime', more = '' } = {},
) => `${id} 1 ${device} ${root} ${mountPoint} ${options} ${more}- ${fsType} ${source} ${options}\n`

const pointsOf = (text: string, under = UNDER) =>
  drivesOf(parseMountTable(text), under).map(({ mountPoint }) => mountPoint)

t.test('lines', async t => {
  const [plain, optional, odd] = parseMountTable(
    line(36, '8:17', '/mnt/x') +
      line(37, '8:18', '/mnt/y', { more: 'shared:7 master:1 unbindable ', options: 'ro,nosuid' }) +
      line(38, '0:99', '/run/media/ada/MY\\040STICK\\011\\134', {
        ...{ fsType: 'fuseblk', source: '/dev/sd\\040b', root: '/a\\012b' },
      }),
  )
  t.same(plain, {
    ...{ id: 36, device: '8:17', root: '/', mountPoint: '/mnt/x', fsType: 'ext4' },
    ...{ source: '/dev/sdb1', readOnly: false },
  })
  t.match(optional, { device: '8:18', mountPoint: '/mnt/y', fsType: 'ext4', readOnly: true })
  t.match(odd, { mountPoint: '/run/media/ada/MY STICK\t\\', source: '/dev/sd b', root: '/a\nb' })
  for (const bad of [
    '',
    'x\n',
    '1 2 3\n',
    'a b 8:1 / /mnt rw - ext4 x rw\n',
    '1 1 8 / /m rw - a b c\n',
  ]) {
    t.same(parseMountTable(bad), [], JSON.stringify(bad))
  }
})

t.test('what may be a drive', async t => {
  const cases: readonly (readonly [what: string, text: string, expected: readonly string[]])[] = [
    ['below a folder, however deep', line(1, '8:1', '/run/media/ada/X'), ['/run/media/ada/X']],
    ['the folder itself', line(1, '8:1', '/mnt'), ['/mnt']],
    ['beside it', line(1, '8:1', '/mnt2/x') + line(2, '8:2', '/srv/mnt/x'), []],
    ['the kernel’s own', line(1, '0:5', '/mnt/proc', { fsType: 'proc' }), []],
    ['an automounter', line(1, '0:5', '/mnt/net', { fsType: 'autofs' }), []],
    ...(['btrfs', 'exfat', 'ntfs3', 'fuseblk', 'vfat', 'xfs', 'tmpfs', 'nfs4'] as const).map(
      fsType => [fsType, line(1, '8:1', '/mnt/x', { fsType }), ['/mnt/x']] as const,
    ),
    ['mounted twice', line(5, '8:1', '/mnt/b') + line(4, '8:1', '/mnt/a'), ['/mnt/a']],
    [
      'bound: the whole of it counts',
      line(4, '8:1', '/mnt/a', { root: '/sub' }) + line(5, '8:1', '/mnt/b'),
      ['/mnt/b'],
    ],
    [
      'two subvolumes are two drives',
      line(4, '0:40', '/mnt/a', { root: '/@a', fsType: 'btrfs' }) +
        line(5, '0:40', '/mnt/b', { root: '/@b', fsType: 'btrfs' }),
      ['/mnt/a', '/mnt/b'],
    ],
    [
      'mounted over another: only what is seen counts',
      line(4, '8:1', '/mnt/a') + line(5, '8:2', '/mnt/a', { fsType: 'vfat' }),
      ['/mnt/a'],
    ],
  ]
  for (const [what, text, expected] of cases) t.same(pointsOf(text), expected, what)
  const [top] = drivesOf(
    parseMountTable(line(4, '8:1', '/mnt/a') + line(5, '8:2', '/mnt/a', { fsType: 'vfat' })),
    UNDER,
  )
  t.equal(top?.fsType, 'vfat')
  const anywhere = line(1, '8:1', '/') + line(2, '8:2', '/anything')
  t.same(pointsOf(anywhere, ['/']), ['/anything'], 'below the root is anywhere')
})

t.test('the kernel’s own table', async t => {
  const mounts = parseMountTable(readMountTable().toString())
  t.ok(
    mounts.some(({ mountPoint }) => mountPoint === '/'),
    'it has a root',
  )
  const before = process.cpuUsage()
  const last = Buffer.from(readMountTable())
  for (let n = 0; n < 200; n++) last.equals(readMountTable())
  const { user, system } = process.cpuUsage(before)
  t.comment(`${((user + system) / 200).toFixed()} µs of processor time a read`)
})

t.test('the watch tells what changed, once', async t => {
  let table = line(1, '8:1', '/mnt/a')
  const told: string[][] = []
  const watch = createMountWatch({
    ...{ readTable: () => Buffer.from(table), readMs: 5 },
    onTable: mounts => told.push(mounts.map(({ mountPoint }) => mountPoint)),
  })
  watch.open()
  watch.open()
  t.same(told, [['/mnt/a']], 'at once')
  const alive = setInterval(() => undefined, 1000)
  t.teardown(() => clearInterval(alive))
  table += line(2, '8:2', '/mnt/b')
  while (told.length < 2) await new Promise(resolve => setTimeout(resolve, 5))
  t.same(told.at(-1), ['/mnt/a', '/mnt/b'])
  watch.look()
  t.equal(told.length, 2, 'nothing changed')
  watch.close()
  watch.close()
})
