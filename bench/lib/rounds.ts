// Ratios against a named baseline of the same run: absolute figures of two runs say nothing about each other on a machine
// whose load changes, so every round measures every contender, in an order that rotates, and the median of the rounds' ratios counts.

/** One thing to measure: runs once, gives one number. */
export type Measure = () => Promise<number>

export interface RoundsResult {
  /** Contender -> its values, warm-up round dropped. */
  readonly values: Readonly<Record<string, readonly number[]>>
  /** Contender -> median of value / baseline's value, round by round. */
  readonly ratios: Readonly<Record<string, number>>
}

export function median(numbers: readonly number[]): number {
  const sorted = [...numbers].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  const upper = sorted[middle] ?? NaN
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? NaN) + upper) / 2
}

/** The value below which that share (0 to 1) of the numbers lies. */
export function percentile(numbers: readonly number[], share: number): number {
  const sorted = [...numbers].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? NaN
}

/** Measures all contenders in `rounds` interleaved rounds after one that is thrown away; the first contender is the baseline. */
export async function inRounds(
  contenders: Readonly<Record<string, Measure>>,
  rounds: number,
): Promise<RoundsResult> {
  const names = Object.keys(contenders)
  const values: Record<string, number[]> = Object.fromEntries(names.map(name => [name, []]))
  for (let round = 0; round <= rounds; round++) {
    for (let turn = 0; turn < names.length; turn++) {
      const name = names[(turn + round) % names.length] ?? ''
      const value = await contenders[name]?.()
      if (round > 0 && value !== undefined) values[name]?.push(value)
    }
  }
  const baseline = values[names[0] ?? ''] ?? []
  const ratios = Object.fromEntries(
    names.map(name => [
      name,
      median((values[name] ?? []).map((value, round) => value / (baseline[round] ?? NaN))),
    ]),
  )
  return { values, ratios }
}

/** Options of every benchmark: `--rounds N`, `--quick` (one round, smaller sets: for trying the script itself). */
export function benchOptions(defaultRounds = 5): {
  readonly rounds: number
  readonly quick: boolean
} {
  const words = process.argv.slice(2)
  const quick = words.includes('--quick')
  const at = words.indexOf('--rounds')
  const asked = at < 0 ? NaN : Number(words[at + 1])
  return { quick, rounds: Number.isInteger(asked) && asked > 0 ? asked : quick ? 1 : defaultRounds }
}

const figure = (value: number): string =>
  Math.abs(value) >= 1000
    ? Math.round(value).toLocaleString('en')
    : value.toLocaleString('en', { maximumSignificantDigits: 3 })

/** What a ratio should be. */
export interface Goal {
  readonly atLeast?: number
  readonly atMost?: number
}

/** Prints one line per contender: its median, its ratio to the baseline, and whether the goal is met. */
export function report(
  what: string,
  unit: string,
  { values, ratios }: RoundsResult,
  goals: Readonly<Record<string, Goal>> = {},
): void {
  const [baseline = ''] = Object.keys(values)
  for (const [name, all] of Object.entries(values)) {
    const ratio = ratios[name] ?? NaN
    const against = name === baseline ? 'baseline' : `${ratio.toFixed(2)}x ${baseline}`
    console.log(
      `${what} | ${name} | ${figure(median(all))} ${unit} | ${against}${verdict(ratio, goals[name])}`,
    )
  }
}

/** Prints a value that is held against a limit of its own rather than a baseline. */
export function reportValue(what: string, unit: string, value: number, goal?: Goal): void {
  console.log(`${what} | ${figure(value)} ${unit}${verdict(value, goal)}`)
}

function verdict(value: number, goal: Goal | undefined): string {
  if (goal === undefined) return ''
  const { atLeast = -Infinity, atMost = Infinity } = goal
  const wanted = goal.atLeast === undefined ? `<= ${atMost}` : `>= ${atLeast}`
  return ` | goal ${wanted}: ${value >= atLeast && value <= atMost ? 'met' : 'MISSED'}`
}
