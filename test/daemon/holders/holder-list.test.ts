import t from 'tap'
import {
  createHolderList,
  holderListOf,
  type HolderListChange,
} from '../../../daemon/holders/holder-list.ts'
import { fakeHolder } from '../../helpers/fake-holder.ts'

t.test('holders that come and go', async t => {
  const store = fakeHolder('nix-store:/nix/store', 'nix-store')
  const drive = fakeHolder('drive:x', 'drive')
  const list = createHolderList([store])
  const told: string[] = []
  const tell = ({ kind, holder }: HolderListChange) => told.push(`${kind} ${holder.id}`)
  const unlisten = list.listen(tell)
  t.same(list.current(), [store])
  const before = list.current()
  list.add(drive)
  t.same(list.current(), [store, drive], 'last in order')
  t.same(before, [store], 'what was asked for before does not change')
  t.equal(list.current(), list.current(), 'the same array while nothing changes')
  t.throws(() => list.add(fakeHolder('drive:x', 'drive')), /is there/)
  t.equal(list.remove('drive:x'), drive)
  t.equal(list.remove('drive:x'), undefined)
  unlisten()
  list.add(drive)
  t.same(told, ['added drive:x', 'removed drive:x'])
})

t.test('either way they are given', async t => {
  const store = fakeHolder('nix-store:/nix/store', 'nix-store')
  const list = createHolderList([store])
  t.equal(holderListOf(list), list)
  t.same(holderListOf([store]).current(), [store])
})
