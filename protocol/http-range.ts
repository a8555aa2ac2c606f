// Byte ranges of RFC 9110 section 14, the part that download clients use: one range, bytes. Anything else (several
// ranges, other units, nonsense) is ignored as the RFC allows, and the whole body is sent.

/** What to send: everything, a part (`end` exclusive), or 416. */
export type RangeRequest =
  | { readonly kind: 'whole' }
  | { readonly kind: 'part'; readonly start: number; readonly end: number }
  | { readonly kind: 'unsatisfiable' }

/** More digits than any offset has: 15 digits are under Number.MAX_SAFE_INTEGER. */
const RANGE = /^bytes=(\d{0,15})-(\d{0,15})$/

/**
 * Reads a Range header against a body of `total` bytes. With `total` undefined (a body made on the fly) only
 * `bytes=N-` can be answered, and `end` is Infinity.
 */
export function parseRange(header: string | undefined, total: number | undefined): RangeRequest {
  const match = header === undefined ? null : RANGE.exec(header)
  if (match === null || (match[1] === '' && match[2] === '')) return { kind: 'whole' }
  const first = match[1] === '' ? undefined : Number(match[1])
  const last = match[2] === '' ? undefined : Number(match[2])
  if (total === undefined) {
    if (first === undefined || last !== undefined) return { kind: 'whole' }
    return { kind: 'part', start: first, end: Infinity }
  }
  if (first === undefined) {
    if (last === 0 || total === 0) return { kind: 'unsatisfiable' }
    return { kind: 'part', start: Math.max(0, total - (last ?? 0)), end: total }
  }
  if (last !== undefined && last < first) return { kind: 'whole' }
  if (first >= total) return { kind: 'unsatisfiable' }
  return { kind: 'part', start: first, end: last === undefined ? total : Math.min(total, last + 1) }
}
