import type { DailyWindow } from '../config-values.ts'

const MINUTES_PER_HOUR = 60
const MINUTES_PER_DAY = 24 * MINUTES_PER_HOUR
const MINUTE_MS = 60_000

/** Minutes of local time since midnight, with their fraction. */
function minuteOf(nowMs: number): number {
  const date = new Date(nowMs)
  const seconds = date.getSeconds() + date.getMilliseconds() / 1000
  return date.getHours() * MINUTES_PER_HOUR + date.getMinutes() + seconds / 60
}

/** Whether that moment lies in the window: from its first minute up to, not including, its last. */
export function isWithin({ from, to }: DailyWindow, nowMs: number): boolean {
  const minute = minuteOf(nowMs)
  return from < to ? minute >= from && minute < to : minute >= from || minute < to
}

/** Ms until the window opens; 0 within it. A change to summer time in between makes it an hour wrong, so look again. */
export function untilOpen(window: DailyWindow, nowMs: number): number {
  if (isWithin(window, nowMs)) return 0
  const minutes = (window.from - minuteOf(nowMs) + MINUTES_PER_DAY) % MINUTES_PER_DAY
  return Math.ceil(minutes * MINUTE_MS)
}

const clockText = (minute: number): string =>
  `${String(Math.floor(minute / MINUTES_PER_HOUR)).padStart(2, '0')}:${String(minute % MINUTES_PER_HOUR).padStart(2, '0')}`

/** As it stands in the configuration. */
export const formatWindow = ({ from, to }: DailyWindow): string =>
  `${clockText(from)}-${clockText(to)}`
