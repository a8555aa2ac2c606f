import t from 'tap'
import type { Link } from '../../../daemon/gossip/link.ts'
import { decodeReach, encodeReach } from '../../../daemon/gossip/messages.ts'
import { createReach } from '../../../daemon/gossip/reach.ts'
import type { PeerKey } from '../../../daemon/site.ts'
import { connect, createSite, startHost } from './rooms.ts'

const keyOf = (digit: string) => digit.repeat(64) as PeerKey
const [A, B, C] = [keyOf('a'), keyOf('b'), keyOf('c')]

/** A link that only says what it is told. */
function fakeLink(key: PeerKey) {
  const said: PeerKey[][] = []
  const link = { key, channel: { reach: (keys: PeerKey[]) => void said.push(keys) } }
  return { said, link: link as unknown as Link }
}
const told = () => new Promise(resolve => setTimeout(resolve, 20))

t.test('who is connected with whom is told, each change once', async t => {
  const reach = createReach(1)
  t.teardown(() => reach.close())
  const [a, b, again] = [fakeLink(A), fakeLink(B), fakeLink(A)]
  reach.greet(a.link)
  reach.greet(b.link)
  await told()
  t.same([a.said, b.said], [[[B]], [[A]]])
  reach.greet(again.link)
  reach.gone(a.link)
  await told()
  t.same([again.said, b.said], [[[B]], [[A]]], 'a connection made anew is no news')
  reach.gone(again.link)
  await told()
  t.same(b.said, [[A], []])

  t.same(reach.through(C), [])
  reach.told(b.link, [A, C])
  reach.told(a.link, [C])
  t.same(reach.through(C), [B], 'what one said that is gone counts no more')
  reach.told(b.link, [])
  t.same(reach.through(C), [])
})

t.test('over a real connection', async t => {
  const site = createSite()
  const [a, b, c] = [
    await startHost(t, site, 'a'),
    await startHost(t, site, 'b'),
    await startHost(t, site, 'c'),
  ]
  await connect(a, b)
  await connect(b, c)
  while (!a.gossip.through(c.key).includes(b.key)) await new Promise(r => setTimeout(r, 5))
  await c.gossip.close()
  while (a.gossip.through(c.key).length > 0) await new Promise(r => setTimeout(r, 5))
  t.pass('a knows that b leads to c, and when no more')
})

t.test('the message', async t => {
  t.same(decodeReach(encodeReach([A, B])), [A, B])
  t.same(decodeReach(encodeReach([])), [])
  t.throws(() => decodeReach(Buffer.alloc(33)), { code: 'PEER_MESSAGE_INVALID' })
  t.throws(() => decodeReach(Buffer.alloc(1025 * 32)), { code: 'PEER_MESSAGE_INVALID' })
})
