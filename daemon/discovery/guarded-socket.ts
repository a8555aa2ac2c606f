import { createSocket, type RemoteInfo, type Socket } from 'node:dgram'
import type { PacketGate, ReadingBudget } from './packet-gate.ts'

/**
 * Ms between two sends of the same answer (RFC 6762, 6, has a second). bonjour answers every question of every query:
 * without a limit one forged packet of a hundred questions would have each host of the LAN send a hundred to all others.
 */
const ANSWER_GAP_MS = 500

/** Different answers within that time; more than a host has to say, so that only nonsense is left unanswered. */
const ANSWERS_MAX = 16

/** The bit of a DNS header's third byte that tells an answer from a query. */
const ANSWER_BIT = 0x80

/** What {@link createGuardedSocket} is told. */
export interface GuardedSocketOptions {
  readonly gate: PacketGate
  readonly budget: ReadingBudget
  /** Whatever the parser or a listener threw at a packet. */
  readonly onPacketError: (error: unknown) => void
  readonly now: () => number
}

type Done = (error: Error | null, bytes?: number) => void
type Send = (
  packet: Buffer,
  offset: number,
  length: number,
  port: number,
  address: string,
  done: Done,
) => void

const ignore: Done = () => {}

/**
 * Sends an answer at once if it was not sent a moment ago, else once at the end of the gap: whoever asked meanwhile is
 * answered by that one, however many they are.
 */
function coalesceAnswers(send: Send): { send: Send; close(): void } {
  /** By content: whether it is to be sent again at the end of the gap. */
  const recent = new Map<string, { readonly timer: NodeJS.Timeout; again: boolean }>()

  const sendNow = (...answer: Parameters<Send>): void => {
    const content = answer[0].toString('latin1')
    const timer = setTimeout(() => {
      const again = recent.get(content)?.again === true
      recent.delete(content)
      const [packet, offset, length, port, address] = answer
      if (again) sendNow(packet, offset, length, port, address, ignore)
    }, ANSWER_GAP_MS).unref()
    recent.set(content, { timer, again: false })
    send(...answer)
  }

  return {
    send(...answer) {
      const [packet, , , , , done] = answer
      const last = recent.get(packet.toString('latin1'))
      if (last === undefined && recent.size < ANSWERS_MAX) return sendNow(...answer)
      if (last !== undefined) last.again = true
      process.nextTick(done, null, 0)
    },
    close() {
      for (const { timer } of recent.values()) clearTimeout(timer)
      recent.clear()
    },
  }
}

/**
 * A UDP socket for multicast-dns that lets in only what the gate admits, survives what its listeners throw, and repeats
 * itself no faster than it should.
 */
export function createGuardedSocket(options: GuardedSocketOptions): Socket {
  const { gate, budget, onPacketError, now } = options
  const socket = createSocket({ type: 'udp4', reuseAddr: true })
  const emit = socket.emit.bind(socket) as (event: string, ...values: unknown[]) => boolean
  const guardedEmit = (event: string, ...values: unknown[]): boolean => {
    if (event !== 'message') return emit(event, ...values)
    const [packet, { address }] = values as [Buffer, RemoteInfo]
    if (!gate.admits(packet, address)) return false
    const from = now()
    try {
      return emit(event, ...values)
    } catch (error) {
      onPacketError(error)
      return false
    } finally {
      budget.spend(now() - from)
    }
  }
  socket.emit = guardedEmit

  const plainSend = socket.send.bind(socket)
  const send: Send = (packet, offset, length, port, address, done) => {
    try {
      plainSend(packet, offset, length, port, address, done)
    } catch (error) {
      // Closed in this moment.
      process.nextTick(done, error)
    }
  }
  const answers = coalesceAnswers(send)
  socket.once('close', () => answers.close())
  // The one form that multicast-dns uses.
  const guardedSend: Send = (packet, offset, ...rest) =>
    ((packet[offset + 2] ?? 0) & ANSWER_BIT) === 0
      ? send(packet, offset, ...rest)
      : answers.send(packet, offset, ...rest)
  socket.send = guardedSend as Socket['send']
  return socket
}
