import Table from 'cli-table3'

/** Nothing drawn: columns stand two blanks apart, as in `ls -l` and `docker ps`, and a script can split them. */
const NO_BORDERS = {
  top: '',
  'top-mid': '',
  'top-left': '',
  'top-right': '',
  bottom: '',
  'bottom-mid': '',
  'bottom-left': '',
  'bottom-right': '',
  left: '',
  'left-mid': '',
  mid: '',
  'mid-mid': '',
  right: '',
  'right-mid': '',
  middle: '  ',
}

const GAP = 2
/** A column narrower than this cannot be read. */
const NARROWEST = 10

export interface TableShape {
  readonly head: readonly string[]
  /** Columns of numbers, by index. */
  readonly right?: readonly number[]
  /** Width to fit in, columns of the terminal. */
  readonly width: number
}

/** Widths that fit: the widest column gives way first, as the others are short words and numbers. */
function fit(natural: readonly number[], width: number): number[] {
  const widths = [...natural]
  let excess = widths.reduce((sum, one) => sum + one, 0) + GAP * (widths.length - 1) - width
  while (excess > 0) {
    const widest = Math.max(...widths)
    if (widest <= NARROWEST) break
    widths[widths.indexOf(widest)] = widest - 1
    excess -= 1
  }
  return widths
}

/** Prints rows under a head; cells too wide for the terminal are wrapped, never cut: a path must stay whole to be of use. */
export function formatTable(rows: readonly (readonly string[])[], shape: TableShape): string {
  const lines = [shape.head, ...rows]
  const natural = shape.head.map((_, column) =>
    Math.max(...lines.map(line => (line[column] ?? '').length)),
  )
  const table = new Table({
    chars: NO_BORDERS,
    style: { head: [], border: [], 'padding-left': 0, 'padding-right': 0 },
    colWidths: fit(natural, shape.width),
    colAligns: shape.head.map((_, column) => (shape.right?.includes(column) ? 'right' : 'left')),
    wordWrap: true,
    wrapOnWordBoundary: false,
  })
  for (const line of lines) table.push([...line])
  return table
    .toString()
    .split('\n')
    .map(line => line.trimEnd())
    .join('\n')
}
