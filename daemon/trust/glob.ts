/**
 * Whether a shell-like pattern (`*` any characters, `?` one) covers the whole text. In time of pattern times text at
 * worst: a regular expression made of `*-a-*-a-*` would take exponential time over a hostile name.
 */
export function matchGlob(pattern: string, text: string): boolean {
  let at = 0
  let inPattern = 0
  let starAt = -1
  let resumeAt = 0
  while (at < text.length) {
    const wanted = pattern[inPattern]
    if (wanted === '*') {
      starAt = inPattern++
      resumeAt = at
    } else if (wanted !== undefined && (wanted === '?' || wanted === text[at])) {
      inPattern++
      at++
    } else if (starAt >= 0) {
      // The last star takes one character more.
      inPattern = starAt + 1
      at = ++resumeAt
    } else {
      return false
    }
  }
  while (pattern[inPattern] === '*') inPattern++
  return inPattern === pattern.length
}
