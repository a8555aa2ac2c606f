// What stands between the network and the DNS parser. Anybody on the LAN may send anything at any rate to port 5353, and
// the parser reserves memory by the counts of a packet's header and follows its compression pointers as often as told.
// So: only packets that look like ours, of believable shape, from a neighbour, within a rate and a share of the time.

/**
 * Bytes of a packet. Ours have some 400, those of others' caches little more. RFC 6762 allows 9000, but the cost of
 * following compression pointers grows with the square of it.
 */
export const PACKET_MAX_BYTES = 4096

/** Questions and records of a packet together: a responder with a dozen services sends some 60. */
export const PACKET_MAX_RECORDS = 128

/** Packets per second and at once from one address: a hundred hosts that start together ask each other this often. */
const SOURCE_PER_SECOND = 40
const SOURCE_BURST = 80

/** Addresses whose rate is remembered; beyond that the one silent for longest is forgotten. */
const SOURCES_MAX = 256

/**
 * Share of the time spent on reading packets, all interfaces together, and ms of it that may be saved up: a hundred hosts
 * that start together send some 500 packets in 2 s, each read in 0.1 ms, or more where the machine is busy.
 */
const READING_SHARE = 0.1
const READING_BURST_MS = 250

const HEADER_BYTES = 12
/** A question has at least a name of one byte, type and class; a record also TTL and length (RFC 1035, 4.1). */
const QUESTION_MIN_BYTES = 5
const RECORD_MIN_BYTES = 11

/** So much per second, some of it saved up: the token bucket. */
export interface Allowance {
  /** Takes `amount` when there is any left at all. */
  take(amount: number): boolean
}

/** An allowance of `perSecond`, `burst` at the start and at most. `now` in ms. */
export function createAllowance(perSecond: number, burst: number, now: () => number): Allowance {
  let left = burst
  let at = now()
  return {
    take(amount) {
      const time = now()
      left = Math.min(burst, left + ((time - at) * perSecond) / 1000)
      at = time
      if (left <= 0) return false
      left -= amount
      return true
    },
  }
}

/** What reading may cost, shared by all interfaces of the host. */
export interface ReadingBudget {
  /** False when packets have taken more than their share of the time. */
  readonly left: boolean
  spend(ms: number): void
}

/** A budget of {@link READING_SHARE} of the time. */
export function createReadingBudget(now: () => number): ReadingBudget {
  const allowance = createAllowance(READING_SHARE * 1000, READING_BURST_MS, now)
  return {
    get left() {
      return allowance.take(0)
    },
    spend: ms => void allowance.take(ms),
  }
}

/** The door of one interface. */
export interface PacketGate {
  /** Whether the packet is worth parsing. */
  admits(packet: Buffer, from: string): boolean
  /** Packets refused for their rate or cost, not for their shape. */
  readonly dropped: number
}

/** What {@link createPacketGate} is told. */
export interface PacketGateOptions {
  /** Labels one of which stands in every packet that concerns us: a name is compressed, its first label never. */
  readonly labels: readonly string[]
  readonly isNeighbour: (address: string) => boolean
  readonly budget: ReadingBudget
  readonly now: () => number
}

/** Whether a packet's header promises no more than its length can hold. */
export function believable(packet: Buffer): boolean {
  if (packet.length < HEADER_BYTES || packet.length > PACKET_MAX_BYTES) return false
  const questions = packet.readUInt16BE(4)
  const records = packet.readUInt16BE(6) + packet.readUInt16BE(8) + packet.readUInt16BE(10)
  return (
    questions + records <= PACKET_MAX_RECORDS &&
    HEADER_BYTES + questions * QUESTION_MIN_BYTES + records * RECORD_MIN_BYTES <= packet.length
  )
}

/** The door of one interface: cheap tests first, so that the chatter of a big LAN costs next to nothing. */
export function createPacketGate(options: PacketGateOptions): PacketGate {
  const { isNeighbour, budget, now } = options
  const labels = options.labels.map(label => Buffer.from(label))
  const sources = new Map<string, Allowance>()
  let dropped = 0

  const withinRate = (from: string): boolean => {
    const known = sources.get(from)
    const source = known ?? createAllowance(SOURCE_PER_SECOND, SOURCE_BURST, now)
    sources.delete(from)
    if (known === undefined && sources.size >= SOURCES_MAX) {
      for (const oldest of sources.keys()) {
        sources.delete(oldest)
        break
      }
    }
    sources.set(from, source)
    return source.take(1)
  }

  return {
    admits(packet, from) {
      if (!believable(packet) || !isNeighbour(from)) return false
      if (!labels.some(label => packet.includes(label))) return false
      if (withinRate(from) && budget.left) return true
      dropped++
      return false
    },
    get dropped() {
      return dropped
    },
  }
}
