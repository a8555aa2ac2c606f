// Values of the configuration that are written with a unit: sizes, rates, times of day. Text in, numbers out.

/** Bytes per unit; decimal and binary prefixes are told apart, as on a drive's box and in `df -h`. */
const BYTE_UNITS: Readonly<Record<string, number>> = {
  b: 1,
  kb: 1e3,
  mb: 1e6,
  gb: 1e9,
  tb: 1e12,
  pb: 1e15,
  kib: 2 ** 10,
  mib: 2 ** 20,
  gib: 2 ** 30,
  tib: 2 ** 40,
  pib: 2 ** 50,
}

/** Bits per second per unit, spelled as `tc` spells them (tc(8), UNITS). */
const BIT_UNITS: Readonly<Record<string, number>> = { bit: 1, kbit: 1e3, mbit: 1e6, gbit: 1e9 }

const BITS_PER_BYTE = 8

const AMOUNT = /^(\d{1,15}(?:\.\d{1,6})?) ?([a-z]+)$/

const amountOf = (text: string): { amount: number; unit: string } | undefined => {
  const match = AMOUNT.exec(text.trim().toLowerCase())
  return match?.[1] === undefined || match[2] === undefined
    ? undefined
    : { amount: Number(match[1]), unit: match[2] }
}

const positiveInteger = (value: number): number | undefined => {
  const rounded = Math.round(value)
  return rounded > 0 && Number.isSafeInteger(rounded) ? rounded : undefined
}

/** Bytes of a size like `200GiB`, `1.5 TB` or a whole number of bytes; undefined when it is none. */
export function parseSize(value: string | number): number | undefined {
  if (typeof value === 'number') return Number.isInteger(value) ? positiveInteger(value) : undefined
  const parsed = amountOf(value)
  const factor = parsed && Object.hasOwn(BYTE_UNITS, parsed.unit) && BYTE_UNITS[parsed.unit]
  return parsed && factor ? positiveInteger(parsed.amount * factor) : undefined
}

/** Bytes per second of a rate like `64kbit` (bits, as telecoms say) or `8KiB/s` (bytes); undefined when it is none. */
export function parseRate(text: string): number | undefined {
  const parsed = amountOf(text.trim().replace(/\/s$/i, ''))
  if (!parsed) return undefined
  if (Object.hasOwn(BIT_UNITS, parsed.unit)) {
    return positiveInteger((parsed.amount * (BIT_UNITS[parsed.unit] ?? 0)) / BITS_PER_BYTE)
  }
  return /\/s$/i.test(text.trim()) ? parseSize(text.trim().replace(/\/s$/i, '')) : undefined
}

/** A daily span of time in minutes after local midnight; where `to` is not after `from` it runs past midnight. */
export interface DailyWindow {
  readonly from: number
  readonly to: number
}

const MINUTES_PER_HOUR = 60
const CLOCK = String.raw`([01]\d|2[0-3]):([0-5]\d)`
const WINDOW = new RegExp(`^${CLOCK}-${CLOCK}$`)

/** A window like `22:00-06:00`; undefined when it is none. */
export function parseWindow(text: string): DailyWindow | undefined {
  const match = WINDOW.exec(text)
  if (!match) return undefined
  const minutes = (hours: number): number =>
    Number(match[hours]) * MINUTES_PER_HOUR + Number(match[hours + 1])
  const window = { from: minutes(1), to: minutes(3) }
  return window.from === window.to ? undefined : window
}

/** How many edits of a letter, or swaps of two neighbours, lead from one text to the other (optimal string alignment). */
function editDistance(left: string, right: string): number {
  let before: readonly number[] = []
  let row: readonly number[] = Array.from({ length: right.length + 1 }, (_, column) => column)
  const at = (cells: readonly number[], column: number): number => cells[column] ?? Infinity
  for (let i = 1; i <= left.length; i++) {
    const next = [i]
    for (let j = 1; j <= right.length; j++) {
      const same = left[i - 1] === right[j - 1]
      const swapped = left[i - 1] === right[j - 2] && left[i - 2] === right[j - 1]
      next.push(
        Math.min(
          at(row, j - 1) + (same ? 0 : 1),
          at(row, j) + 1,
          at(next, j - 1) + 1,
          i > 1 && j > 1 && swapped ? at(before, j - 2) + 1 : Infinity,
        ),
      )
    }
    before = row
    row = next
  }
  return at(row, right.length)
}

/** A longer name than any known one is no misspelling of it: not worth the quadratic work. */
const LONGEST_MISSPELLING = 64

/** The known name that `name` most likely misspells, or undefined when none is near. */
export function nearestName(name: string, known: readonly string[]): string | undefined {
  if (name.length > LONGEST_MISSPELLING) return undefined
  // A third of the letters wrong is about where a guess stops being a help.
  const farthest = Math.max(1, Math.floor(name.length / 3))
  const ranked = known
    .map(candidate => ({
      candidate,
      distance: editDistance(name.toLowerCase(), candidate.toLowerCase()),
    }))
    .filter(({ distance }) => distance <= farthest)
    .sort((a, b) => a.distance - b.distance)
  return ranked[0]?.candidate
}
