import { createSocket, type RemoteInfo, type Socket } from 'node:dgram'
import { createAllowance, type PacketGate, type ReadingBudget } from './packet-gate.ts'

/**
 * Answers per second and at once on one interface. bonjour answers every question of every query: without a limit one
 * forged packet of a hundred questions would have each host of the LAN send a hundred to all others.
 */
const ANSWERS_PER_SECOND = 10
const ANSWERS_BURST = 20

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

type Done = (error: Error | null, bytes: number) => void

/**
 * A UDP socket for multicast-dns that lets in only what the gate admits, survives what its listeners throw, and answers no
 * faster than it should.
 */
export function createGuardedSocket(options: GuardedSocketOptions): Socket {
  const { gate, budget, onPacketError, now } = options
  const socket = createSocket({ type: 'udp4', reuseAddr: true })
  const answers = createAllowance(ANSWERS_PER_SECOND, ANSWERS_BURST, now)

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

  const send = socket.send.bind(socket)
  // The one form that multicast-dns uses.
  const guardedSend = (
    packet: Buffer,
    offset: number,
    length: number,
    port: number,
    address: string,
    done: Done,
  ): void => {
    const isAnswer = ((packet[offset + 2] ?? 0) & ANSWER_BIT) !== 0
    if (isAnswer && !answers.take(1)) return process.nextTick(done, null, 0)
    try {
      send(packet, offset, length, port, address, done)
    } catch (error) {
      process.nextTick(done, error, 0)
    }
  }
  socket.send = guardedSend as Socket['send']
  return socket
}
