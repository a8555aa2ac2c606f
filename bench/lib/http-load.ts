import { readFileSync, writeFileSync } from 'node:fs'
import { get, Agent } from 'node:http'
import { join } from 'node:path'
import { run } from '../../test/helpers/run.ts'
import { tempDir, type Scope } from '../../test/helpers/scope.ts'

/** What wrk saw. Times in milliseconds. */
export interface Load {
  readonly requests: number
  readonly requestsPerSecond: number
  readonly p50: number
  readonly p99: number
}

const UNIT_MS: Readonly<Record<string, number>> = { us: 0.001, ms: 1, s: 1000, m: 60_000 }

/** `1.23ms` in milliseconds. */
function milliseconds(text: string | undefined): number {
  const [, number = 'NaN', unit = ''] = /([\d.]+)(us|ms|s|m)/.exec(text ?? '') ?? []
  return Number(number) * (UNIT_MS[unit] ?? NaN)
}

/** A load of GET requests for paths taken at random from a list, by wrk. */
export function createLoad(scope: Scope, paths: readonly string[], expected: 200 | 404) {
  const dir = tempDir(scope, 'load')
  writeFileSync(join(dir, 'paths'), paths.join('\n'))
  writeFileSync(
    join(dir, 'load.lua'),
    `local requests, seed = {}, 0
     function init(args)
       math.randomseed(tonumber(args[1]) or 1)
       for line in io.lines("${dir}/paths") do requests[#requests + 1] = wrk.format("GET", line) end
     end
     function request() return requests[math.random(#requests)] end`,
  )
  let runs = 0
  return async (url: string, seconds = 2, connections = 25): Promise<Load> => {
    const { stdout } = await run('wrk', [
      ...['-t1', `-c${connections}`, `-d${seconds}s`, '--latency', '-s', join(dir, 'load.lua')],
      ...[url, '--', String(++runs)],
    ])
    // A wrong status must not pass for speed. (A response() hook in Lua would say more and halve wrk's own speed.)
    const total = Number(/(\d+) requests in/.exec(stdout)?.[1])
    const refused = Number(/Non-2xx or 3xx responses: (\d+)/.exec(stdout)?.[1] ?? 0)
    if (refused !== (expected === 200 ? 0 : total) || /Socket errors/.test(stdout)) {
      throw new Error(`${url}: ${refused} of ${total} were not 200, wanted ${expected}\n${stdout}`)
    }
    return {
      requests: total,
      requestsPerSecond: Number(/Requests\/sec:\s+([\d.]+)/.exec(stdout)?.[1]),
      p50: milliseconds(/50%\s+(\S+)/.exec(stdout)?.[1]),
      p99: milliseconds(/99%\s+(\S+)/.exec(stdout)?.[1]),
    }
  }
}

/** What one download took. */
export interface Download {
  readonly bytes: number
  /** From the request to the first byte of the body. */
  readonly firstByteMs: number
  readonly totalMs: number
}

/** Reads a URL to its end and throws the bytes away. Rejects unless the status is 200 or 206. */
export function download(url: string, agent?: Agent): Promise<Download> {
  return new Promise((resolve, reject) => {
    const start = performance.now()
    let firstByteMs = NaN
    let bytes = 0
    get(url, { agent: agent ?? false }, response => {
      if (response.statusCode !== 200 && response.statusCode !== 206) {
        response.resume()
        reject(new Error(`${url} answered ${response.statusCode}`))
        return
      }
      response.on('data', (chunk: Buffer) => {
        if (bytes === 0) firstByteMs = performance.now() - start
        bytes += chunk.length
      })
      response.on('error', reject)
      response.on('end', () => resolve({ bytes, firstByteMs, totalMs: performance.now() - start }))
    }).on('error', reject)
  })
}

/** Bytes per second of so many `curl`s at once: a client in C, so that the server is what is measured. */
export async function throughput(url: string, clients: number): Promise<number> {
  const start = performance.now()
  const sizes = await Promise.all(
    Array.from({ length: clients }, async () => {
      const { stdout } = await run('curl', [
        '-sf',
        '-o',
        '/dev/null',
        '-w',
        '%{size_download}',
        url,
      ])
      return Number(stdout)
    }),
  )
  const total = sizes.reduce((sum, size) => sum + size, 0)
  return (total / (performance.now() - start)) * 1000
}

/** Resident memory of a process, bytes; `peak` since it began or since {@link resetPeak}. */
export function memory(pid: number): { readonly now: number; readonly peak: number } {
  const text = readFileSync(`/proc/${pid}/status`, 'utf8')
  const kibibytes = (field: string) =>
    Number(new RegExp(`^${field}:\\s+(\\d+)`, 'm').exec(text)?.[1])
  return { now: kibibytes('VmRSS') * 1024, peak: kibibytes('VmHWM') * 1024 }
}

export function resetPeak(pid: number): void {
  writeFileSync(`/proc/${pid}/clear_refs`, '5')
}

/** Ticks per second of /proc/PID/stat: USER_HZ, 100 on every Linux that Node runs on. */
const TICKS_PER_SECOND = 100

/** User and system time that processes and their children (nginx's workers) have used so far, in seconds. */
export function cpuSeconds(pids: readonly number[]): number {
  return pids.reduce((sum, pid) => {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    const [user = 0, system = 0] = stat
      .slice(stat.lastIndexOf(')') + 2)
      .split(' ')
      .slice(11, 13)
      .map(Number)
    const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8')
      .split(' ')
      .filter(word => word !== '')
      .map(Number)
    return sum + (user + system) / TICKS_PER_SECOND + cpuSeconds(children)
  }, 0)
}

/** How often a daemon is looked at while its start-up work (the inventory) runs, and what counts as idle. */
const IDLE_LOOK_MS = 250
const IDLE_SHARE = 0.03
const IDLE_LIMIT_MS = 900_000

/** Waits until a process uses next to no CPU: what it does by itself is not what is measured. Resolves to how long that took, seconds. */
export async function untilIdle(pid: number): Promise<number> {
  const start = performance.now()
  const until = start + IDLE_LIMIT_MS
  for (let quiet = 0; quiet < 2;) {
    if (performance.now() > until) throw new Error(`process ${pid} does not come to rest`)
    const before = cpuSeconds([pid])
    await new Promise(resolve => setTimeout(resolve, IDLE_LOOK_MS))
    const busy = ((cpuSeconds([pid]) - before) * 1000) / IDLE_LOOK_MS > IDLE_SHARE
    quiet = busy ? 0 : quiet + 1
  }
  return (performance.now() - start) / 1000
}
