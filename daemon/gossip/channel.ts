import type { SwarmConnection } from 'hyperswarm'
import Protomux from 'protomux'
import { problemOf } from '../../protocol/errors.ts'
import {
  checkMemberList,
  checkPing,
  decodeHeads,
  decodeHello,
  decodeReach,
  decodeTold,
  encodeHeads,
  encodeHello,
  encodeReach,
  encodeTold,
  type Hello,
  type ToldPeer,
} from './messages.ts'
import {
  decodeAsk,
  decodeMarks,
  decodePart,
  encodeAsk,
  encodeMarks,
  encodePart,
  type NoteAsk,
  type NotePart,
} from './note-messages.ts'
import type { PeerKey } from '../site.ts'
import type { NoteMark } from '../../protocol/host-notes.ts'

/** The name of the conversation; a change that an old host could not follow gets a new number. */
const PROTOCOL = 'narwharf/gossip/1'

/** Parts of notes that wait for a reader: a host asks for two at a time. */
const WAITING_PARTS_MAX = 4

/** What the other end says, decoded; nothing comes before its hello. */
export interface ChannelListener {
  hello(hello: Hello): void
  memberList(list: Uint8Array): void
  heads(heads: readonly Uint8Array[]): void
  told(peers: readonly ToldPeer[]): void
  pong(payload: Uint8Array): void
  noteMarks(marks: readonly NoteMark[]): void
  noteAsked(ask: NoteAsk): void
  notePart(part: NotePart): void
  /** With whom its host is connected. */
  reach(keys: readonly PeerKey[]): void
  /** It said what no host says: the connection is not worth keeping. */
  bad(problem: string): void
  closed(): void
}

/** This end's mouth. Sending on a closed channel does nothing. */
export interface Channel {
  memberList(list: Uint8Array): void
  heads(heads: Iterable<Uint8Array>): void
  told(peers: readonly ToldPeer[]): void
  ping(payload: Uint8Array): void
  noteMarks(marks: readonly NoteMark[]): void
  askNote(ask: NoteAsk): void
  /** Waits while the other end reads slowly. */
  notePart(part: NotePart): void
  reach(keys: readonly PeerKey[]): void
}

/** Bytes as they are: what is too long is refused by the decoder that knows what it is. */
const raw = {
  preencode(state: { end: number }, value: Uint8Array): void {
    state.end += value.length
  },
  encode(state: { start: number; buffer: Buffer }, value: Uint8Array): void {
    state.buffer.set(value, state.start)
    state.start += value.length
  },
  decode(state: { start: number; readonly end: number; readonly buffer: Buffer }): Uint8Array {
    const bytes = state.buffer.subarray(state.start, state.end)
    state.start = state.end
    return bytes
  },
}

/**
 * Opens the conversation on a connection that just came and says hello; undefined when it is open already. Call it in the
 * tick of the connection: what the other end says first would be refused by the multiplexer otherwise.
 */
export function openChannel(
  connection: SwarmConnection,
  hello: Hello,
  listener: ChannelListener,
): Channel | undefined {
  const channel = Protomux.from(connection).createChannel({
    protocol: PROTOCOL,
    onclose: () => listener.closed(),
    ondrain: () => {
      while (channel?.drained === true) {
        const next = waiting.shift()
        if (next === undefined) return
        partOut.send(next)
      }
    },
  })
  if (channel === null) return undefined
  let greeted = false
  let poisoned = false
  const waiting: Buffer[] = []

  const message = (act: (bytes: Uint8Array) => void, first = false) =>
    channel.addMessage<Uint8Array>({
      encoding: raw,
      onmessage: bytes => {
        if (poisoned) return
        try {
          if (first === greeted) throw new Error(first ? 'a second hello' : 'no hello first')
          if (first) greeted = true
          act(bytes)
        } catch (error) {
          poisoned = true
          listener.bad(problemOf(error))
        }
      },
    })

  // The order is the protocol: a message's place is its number on the wire.
  const helloOut = message(bytes => listener.hello(decodeHello(bytes)), true)
  const listOut = message(bytes => listener.memberList(checkMemberList(bytes)))
  const headsOut = message(bytes => listener.heads(decodeHeads(bytes)))
  const toldOut = message(bytes => listener.told(decodeTold(bytes)))
  const pingOut = message(bytes => {
    checkPing(bytes)
    // Whoever pings without reading gets no heap of answers.
    if (channel.drained) pongOut.send(bytes)
  })
  const pongOut = message(bytes => listener.pong(checkPing(bytes)))
  const marksOut = message(bytes => listener.noteMarks(decodeMarks(bytes)))
  const askOut = message(bytes => listener.noteAsked(decodeAsk(bytes)))
  const partOut = message(bytes => listener.notePart(decodePart(bytes)))
  const reachOut = message(bytes => listener.reach(decodeReach(bytes)))
  channel.open()
  helloOut.send(encodeHello(hello))
  return {
    memberList: list => void listOut.send(list),
    heads: heads => {
      for (const batch of encodeHeads(heads)) headsOut.send(batch)
    },
    told: peers => {
      if (peers.length > 0) toldOut.send(encodeTold(peers))
    },
    ping: payload => void pingOut.send(payload),
    noteMarks: marks => {
      for (const batch of encodeMarks(marks)) marksOut.send(batch)
    },
    askNote: ask => void askOut.send(encodeAsk(ask)),
    notePart: part => {
      if (channel.drained) partOut.send(encodePart(part))
      // Whoever asks for more at a time than hosts do gets no heap of answers.
      else if (waiting.length < WAITING_PARTS_MAX) waiting.push(encodePart(part))
    },
    reach: keys => void reachOut.send(encodeReach(keys)),
  }
}
