// Which part of a NAR comes from whom, when several hosts give it: pieces without gaps between them, each of which one source
// fills from its start on. Numbers only; the bytes lie in the spool's file.

/** A part is divided only while each half is worth a request of its own: a seeking disk or a packed file costs the holder more. */
export const PART_LEAST_BYTES = 16 * 1024 * 1024

/** A part of the NAR that one source fills. */
export interface Piece {
  readonly start: number
  /** Moves nearer when another source takes the further half over. */
  end: number
  /** Bytes before this one are stored. */
  at: number
  /** Whether a source is at it. */
  taken: boolean
}

/** The pieces of one NAR. */
export interface Pieces {
  /** For a source that has nothing to do: the first piece nobody is at, else the further half of what takes longest. */
  take(mayDivide: boolean): Piece | undefined
  release(piece: Piece): void
  /** Whether what is left is worth another source. */
  mayDivide(): boolean
  /** How far everything is stored from `at` on, where `at` is stored itself. */
  storedUpTo(at: number): number
}

/** One piece, of the whole. */
export function createPieces(size: number, leastBytes = PART_LEAST_BYTES): Pieces {
  const pieces: Piece[] = [{ start: 0, end: size, at: 0, taken: false }]
  const left = ({ at, end }: Piece): number => end - at

  const longestWorthHalf = (): Piece | undefined => {
    const [longest] = pieces.toSorted((a, b) => left(b) - left(a))
    return longest !== undefined && left(longest) >= 2 * leastBytes ? longest : undefined
  }
  const divide = (): Piece | undefined => {
    const longest = longestWorthHalf()
    if (longest === undefined) return undefined
    const middle = longest.at + Math.floor(left(longest) / 2)
    const further: Piece = { start: middle, end: longest.end, at: middle, taken: false }
    longest.end = middle
    pieces.splice(pieces.indexOf(longest) + 1, 0, further)
    return further
  }

  return {
    take(mayDivide) {
      const free = pieces.find(piece => !piece.taken && left(piece) > 0)
      const piece = free ?? (mayDivide ? divide() : undefined)
      if (piece !== undefined) piece.taken = true
      return piece
    },
    release(piece) {
      piece.taken = false
    },
    mayDivide: () => longestWorthHalf() !== undefined,
    storedUpTo(at) {
      let stored = at
      for (const piece of pieces) {
        if (piece.start > stored) break
        if (piece.at > stored) stored = piece.at
        if (piece.at < piece.end) break
      }
      return stored
    },
  }
}
