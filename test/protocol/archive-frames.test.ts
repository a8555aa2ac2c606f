import t from 'tap'
import {
  FRAMED_EVENT_MAX_BYTES,
  archiveFrameHead,
  createFrameReader,
  encodeEventFrame,
  type ArchiveFrame,
} from '../../protocol/archive-frames.ts'

/** What pieces of a size bring, bytes joined. */
function read(body: Buffer, size: number): (string | object)[] {
  const frames: ArchiveFrame[] = []
  const next = createFrameReader()
  for (let at = 0; at < body.length; at += size) frames.push(...next(body.subarray(at, at + size)))
  const seen: (string | object)[] = []
  for (const frame of frames) {
    const last = seen.at(-1)
    if ('event' in frame) seen.push(frame.event as object)
    else if (typeof last === 'string') seen[seen.length - 1] = last + frame.bytes.toString()
    else seen.push(frame.bytes.toString())
  }
  return seen
}

t.test('bytes and events come out in their order, however they are cut', t => {
  const bytes = (text: string) => Buffer.concat([archiveFrameHead(text.length), Buffer.from(text)])
  const body = Buffer.concat([
    ...[
      encodeEventFrame({ event: 'start', name: 'é' }),
      bytes('archive'),
      bytes(''),
      bytes(' goes on'),
    ],
    ...[encodeEventFrame({ event: 'exported' }), encodeEventFrame({ event: 'end' })],
  ])
  for (const size of [1, 2, 3, 7, 20, body.length]) {
    t.strictSame(read(body, size), [
      { event: 'start', name: 'é' },
      'archive goes on',
      { event: 'exported' },
      { event: 'end' },
    ])
  }
  t.end()
})

t.test('what is no frame', t => {
  const bad = (change: (head: Buffer) => void) => {
    const body = encodeEventFrame({})
    change(body)
    return body
  }
  for (const body of [
    bad(head => (head[0] = 0x7b)),
    bad(head => head.writeUInt32BE(FRAMED_EVENT_MAX_BYTES + 1, 1)),
    bad(head => (head[5] = 0x5b)),
  ]) {
    t.throws(() => read(body, body.length), { code: 'FRAME_INVALID' })
  }
  t.end()
})
