import pino from 'pino'
import t from 'tap'
import { createDriveDigests } from '../../../daemon/wants/drive-digests.ts'
import type { MadeHave } from '../../../daemon/wants/have.ts'
import type { DriveStatus } from '../../../protocol/api-drives.ts'
import { readHostNote, writeHostNote } from '../../../protocol/host-note-fields.ts'

const status = (id: string, more: Partial<DriveStatus> = {}): DriveStatus => ({
  ...{ id, name: `drive ${id}`, fsType: 'ext4', plugged: true, mountPoint: `/media/${id}` },
  ...{ dir: `/media/${id}`, readOnly: false, adopted: false, cache: true, archives: [] },
  ...{ firstSeen: '2026-07-25T10:00:00.000Z', lastSeen: '2026-07-26T10:00:00.000Z' },
  ...{ host: 'lab', problems: [], paths: 10 },
  ...more,
})

function begin(bytes: number) {
  let drives: readonly DriveStatus[] = []
  const made: string[] = []
  let changed: () => void = () => {}
  const digests = createDriveDigests({
    drives: () => drives,
    have: {
      async ofHolder(holder) {
        made.push(holder)
        return { bytes: Buffer.alloc(bytes, 1) } as MadeHave
      },
    },
    onChange: () => changed(),
    log: pino({ level: 'silent' }),
  })
  return {
    ...{ digests, made },
    /** Other drives, and resolves when there were that many new digests. */
    async see(next: readonly DriveStatus[], news: number) {
      drives = next
      let left = news
      const done = new Promise<void>(resolve => {
        changed = () => --left === 0 && resolve()
        if (news === 0) resolve()
      })
      digests.look()
      await done
    },
  }
}

t.test('drives as the note tells of them', async t => {
  const { digests, see, made } = begin(100)
  const odd = status('1234-ABCD/backup', { name: 'a\nb', label: '', plugged: false })
  const shipment = {
    ...{ id: 'ab'.repeat(16), name: 'K', depot: 'brest', part: 1, parts: 2 },
    ...{ createdAt: '2026-07-01T10:00:00Z' },
  }
  await see([odd, status('x', { label: 'X', shipment })], 2)
  const [first, second] = digests.noted()
  t.match(first, { name: 'a\ufffdb', plugged: false, lastSeen: '2026-07-26T10:00:00.000Z' })
  t.notOk(first?.label)
  t.notOk(first?.mountPoint, 'a drive in a drawer is nowhere')
  t.match(second, {
    ...{ label: 'X', mountPoint: '/media/x', lastSeen: '2026-07-25T10:00:00.000Z' },
    ...{ shipment: { id: shipment.id, part: 1, parts: 2, depot: 'brest' }, have: String },
  })
  const note = {
    ...{ at: '2026-07-25T10:00:00Z', instance: 'x', storeDir: '/nix/store', keeper: false },
    ...{ wants: [], drives: digests.noted(), merges: [], merged: [] },
  }
  t.strictSame(readHostNote(writeHostNote(note)).drives, digests.noted(), 'whatever it is called')
  await digests.close()
  t.same(made, ['drive:1234-ABCD/backup', 'drive:x'])
})

t.test(
  'a digest is made anew when the paths are others, and left out where there is no room',
  async t => {
    const { digests, see, made } = begin(400_000)
    await see([status('a'), status('b'), status('c', { paths: 200_000 })], 2)
    t.same(
      digests.noted().map(({ have }) => have !== undefined),
      [true, false, false],
      'one fits beside the wants',
    )
    await see([status('a', { paths: 11 })], 1)
    t.equal(made.length, 3)
    await digests.close()
    digests.look()
    t.equal(made.length, 3)
  },
)
