// Numbers and times as a person reads them. Nothing here depends on the locale: output is compared by scripts and tests.

const SIZE_UNITS = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'] as const
const SIZE_STEP = 1024

/** Bytes with one decimal of the largest unit that fits: `9.8 GiB`. */
export function formatSize(bytes: number): string {
  let unit = 0
  let amount = bytes
  // 1023.95 would be rounded to a misleading 1024.0.
  while (amount >= SIZE_STEP - 0.05 && unit < SIZE_UNITS.length - 1) {
    amount /= SIZE_STEP
    unit += 1
  }
  const name = SIZE_UNITS[unit] ?? ''
  if (unit === 0) return `${bytes} ${bytes === 1 ? 'byte' : name}`
  return `${amount.toFixed(1)} ${name}`
}

/** A count with thousands set apart: `1,234,567`. */
export const formatCount = (count: number): string =>
  String(count).replace(/\B(?=(\d{3})+(?!\d))/g, ',')

/** A count and its noun: `1 path`, `3 paths`. */
export const plural = (count: number, noun: string): string =>
  `${formatCount(count)} ${noun}${count === 1 ? '' : 's'}`

/** Spans in seconds, largest first. */
const SPANS = [
  ['d', 86_400],
  ['h', 3_600],
  ['min', 60],
  ['s', 1],
] as const

/** A span of time by its two largest units: `3 h 12 min`. */
export function formatDuration(milliseconds: number): string {
  let rest = Math.max(0, Math.floor(milliseconds / 1000))
  const first = SPANS.findIndex(([, seconds]) => rest >= seconds)
  if (first < 0) return '0 s'
  const parts = SPANS.slice(first, first + 2).map(([unit, seconds]) => {
    const amount = Math.floor(rest / seconds)
    rest -= amount * seconds
    return amount === 0 ? '' : `${amount} ${unit}`
  })
  return parts.filter(part => part !== '').join(' ')
}

/** Control characters but the line's end, and those that turn the writing direction. */
const UNPRINTABLE = /(?!\n)[\p{Cc}\u2028-\u202e\u2066-\u2069]/gu

/** Text from outside made harmless for a terminal. */
export const printable = (text: string): string => text.replace(UNPRINTABLE, '\uFFFD')
