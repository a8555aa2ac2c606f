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
  const [, from = '', to = ''] = RANGE.exec(header ?? '') ?? []
  const start = Number(from)
  if (total === undefined) {
    return from !== '' && to === '' ? { kind: 'part', start, end: Infinity } : { kind: 'whole' }
  }
  if (from === '') {
    if (to === '') return { kind: 'whole' }
    const length = Number(to)
    if (length === 0 || total === 0) return { kind: 'unsatisfiable' }
    return { kind: 'part', start: Math.max(0, total - length), end: total }
  }
  if (to !== '' && Number(to) < start) return { kind: 'whole' }
  if (start >= total) return { kind: 'unsatisfiable' }
  return { kind: 'part', start, end: to === '' ? total : Math.min(total, Number(to) + 1) }
}
