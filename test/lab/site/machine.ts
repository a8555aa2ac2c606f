import { readdirSync, readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'

// How much of the machine others take while a figure is measured. Not the load average: the test's own daemons make most of
// that, and those of the test before it are still in it a minute later.

/** Between two looks, ms: one look reads a small file per process. */
const LOOK_MS = 1_000
/** Looks kept: two minutes, longer than anything that is held against an aim. */
const LOOKS_KEPT = 120
/** What else a figure may have suffered from: the seconds before it began. */
const BEFORE_MS = 2_000
/** Share of the machine, 0 to 1, above which a time says more of the others than of narwharf. */
const BUSY_SHARE = 0.2

/** A process as `/proc/<pid>/stat` has it. */
export interface ProcessTimes {
  readonly pid: number
  readonly parent: number
  /** Clock ticks that it and its ended children took. */
  readonly ticks: number
}

/** Clock ticks since the machine started. */
export interface Look {
  /** Ms, monotonic. */
  readonly at: number
  /** Of all processors, idle ones too. */
  readonly all: number
  /** Of these, what somebody worked in, here or, on a machine that is a guest, beside it. */
  readonly busy: number
  /** Of these, what a process and all below it took. */
  readonly own: number
}

/** Reads a `/proc/<pid>/stat`; the name in it may hold spaces and parentheses. */
export function parseProcessStat(text: string): ProcessTimes {
  const rest = text.slice(text.lastIndexOf(')') + 2).split(' ')
  const [user = 0, system = 0, childUser = 0, childSystem = 0] = rest.slice(11, 15).map(Number)
  const ticks = user + system + childUser + childSystem
  return { pid: Number.parseInt(text, 10), parent: Number(rest[1]), ticks }
}

/** Ticks of a process and all below it. */
export function ticksBelow(root: number, processes: readonly ProcessTimes[]): number {
  const children = processes.filter(({ parent }) => parent === root)
  const own = processes.find(({ pid }) => pid === root)?.ticks ?? 0
  return children.reduce((sum, { pid }) => sum + ticksBelow(pid, processes), own)
}

/** Reads the first line of `/proc/stat`. */
export function parseMachineStat(text: string): Pick<Look, 'all' | 'busy'> {
  // Time of guests stands in user and nice already.
  const times = (text.split('\n', 1)[0] ?? '').split(/ +/).slice(1, 9).map(Number)
  const all = times.reduce((sum, ticks) => sum + ticks, 0)
  const [, , , idle = 0, waiting = 0] = times
  return { all, busy: all - idle - waiting }
}

/** The largest share of the machine, 0 to 1, that others took between two looks since then. */
export function othersShare(looks: readonly Look[], since: number): number {
  let most = 0
  for (const [index, look] of looks.entries()) {
    const before = looks[index - 1]
    if (before === undefined || look.at < since) continue
    // A process that outlives its parent leaves the tree with all it ever took.
    const own = Math.max(0, look.own - before.own)
    const others = look.busy - before.busy - own
    most = Math.max(most, others / Math.max(1, look.all - before.all))
  }
  return most
}

function processes(): ProcessTimes[] {
  return readdirSync('/proc').flatMap(name => {
    if (!/^\d+$/.test(name)) return []
    try {
      return [parseProcessStat(readFileSync(`/proc/${name}/stat`, 'utf8'))]
    } catch {
      // It ended in between.
      return []
    }
  })
}

/** Watches the machine from now on, as long as the process lives. */
export function watchMachine() {
  const looks: Look[] = []
  const look = (): Look => {
    const machine = parseMachineStat(readFileSync('/proc/stat', 'utf8'))
    const own = ticksBelow(process.pid, processes())
    const seen = { at: performance.now(), ...machine, own }
    looks.push(seen)
    if (looks.length > LOOKS_KEPT) looks.shift()
    return seen
  }
  look()
  setInterval(look, LOOK_MS).unref()
  return {
    look,
    /** Processors' worth of work of others in the last so many ms, and whether a time measured then says little of narwharf. */
    others(ms: number) {
      // Ticks of 10 ms say nothing of a shorter time.
      if (performance.now() - (looks.at(-1)?.at ?? 0) > LOOK_MS / 2) look()
      const share = othersShare(looks, performance.now() - ms - BEFORE_MS)
      return { busy: share > BUSY_SHARE, processors: share * availableParallelism() }
    },
  }
}
