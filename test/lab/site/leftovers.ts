import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { run } from '../../helpers/run.ts'

// Nothing of a site may outlive its run, even one that was killed. All that a site has on this machine carries its prefix,
// `nwh-<pid>-<number>-`: network namespaces (with them go devices, and every process inside), and one directory.

/** First part of every name. */
const FAMILY = 'nwh-'

const NETNS_DIR = '/run/netns'

/** Ends the processes in the namespaces of a prefix, removes the namespaces and then the directories. `$1` prefix, `$2` where directories lie. */
const CLEAN = String.raw`
spaces() { for file in ${NETNS_DIR}/"$1"*; do [ -e "$file" ] && basename "$file"; done; }
pids() { for space in $(spaces "$1"); do ip netns pids "$space"; done 2>/dev/null; }
for round in 1 2 3 4 5 6 7 8 9 10; do
  ids=$(pids "$1"); [ -n "$ids" ] || break
  kill -9 $ids 2>/dev/null; sleep 0.05
done
for space in $(spaces "$1"); do ip netns del "$space"; done
rm -rf "$2/$1"*
`

/** Reads until its input ends, which the end of this process does, however it comes; then cleans. */
const GUARD = `cat > /dev/null\n${CLEAN}`

let sites = 0

/** The next prefix of this process: two runs, and two sites of one run, have nothing in common. */
export const nextPrefix = (): string => `${FAMILY}${process.pid}-${++sites}-`

/** Starts the guard of a prefix. The function returned cleans up now, and resolves when nothing is left. */
export function guard(prefix: string): () => Promise<void> {
  const child = spawn('sh', ['-c', GUARD, 'narwharf-lab-guard', prefix, tmpdir()], {
    stdio: ['pipe', 'ignore', 'ignore'],
    // A group of its own: Ctrl-C in the terminal must not end it before its work.
    detached: true,
  })
  const ended = once(child, 'close')
  child.unref()
  return async () => {
    child.ref()
    child.stdin.end()
    await ended
  }
}

/** Start of a process, ms since the epoch; undefined when there is none with that id. */
function startOf(pid: number): number | undefined {
  try {
    const boot = Number(/^btime (\d+)$/m.exec(readFileSync('/proc/stat', 'utf8'))?.[1])
    // The command's name stands in parentheses and may hold anything: fields are counted behind it. The clock has 100 ticks.
    const ticks = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1)?.split(' ')[19]
    return (boot + Number(ticks) / 100) * 1000
  } catch {
    return undefined
  }
}

/** A namespace made that long before its process began is an older process's: process ids come round again. */
const CLOCK_SLACK_MS = 5000

/** Names below a directory that a site may have made, with the process they belong to. */
function marked(directory: string): { readonly pid: number; readonly madeAt: number }[] {
  let names: string[] = []
  try {
    names = readdirSync(directory).filter(name => name.startsWith(FAMILY))
  } catch {
    // No namespace was ever made here.
  }
  return names.flatMap(name => {
    const pid = Number(name.slice(FAMILY.length).split('-')[0])
    const stat = statSync(join(directory, name), { throwIfNoEntry: false })
    return Number.isInteger(pid) && stat ? [{ pid, madeAt: stat.ctimeMs }] : []
  })
}

/** Removes what runs that are over have left, should even their guards have been killed. Returns the processes they were. */
export async function sweep(): Promise<number[]> {
  const gone = [...marked(NETNS_DIR), ...marked(tmpdir())]
    .filter(({ pid, madeAt }) => {
      const start = startOf(pid)
      return start === undefined || start > madeAt + CLOCK_SLACK_MS
    })
    .map(({ pid }) => pid)
  const pids = [...new Set(gone)]
  for (const pid of pids) {
    await run('sh', ['-c', CLEAN, 'narwharf-lab-sweep', `${FAMILY}${pid}-`, tmpdir()])
  }
  return pids
}
