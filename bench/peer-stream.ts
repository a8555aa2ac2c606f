import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { openSync, closeSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { randomBytes } from 'node:crypto'
import { makeLink } from '../test/helpers/link.ts'
import { run } from '../test/helpers/run.ts'
import { createScope, tempDir, type Scope } from '../test/helpers/scope.ts'
import { cpuSeconds } from './lib/http-load.ts'
import { startNginx } from './lib/nginx.ts'
import { benchOptions, inRounds, median, report, reportValue } from './lib/rounds.ts'

// One stream between two hosts of a site, over a veth pair: HTTP in Noise against plain HTTP from nginx, both read by Node,
// and nginx read by curl. Needs root.

const { rounds, quick } = benchOptions()
const SIZE = quick ? 64 * 1024 ** 2 : 512 * 1024 ** 2

/** A process that answers a line of JSON with a line of JSON. */
async function startEnd(scope: Scope, command: readonly string[]) {
  const [program = '', ...args] = command
  const child: ChildProcess = spawn(program, args, { stdio: ['pipe', 'pipe', 'inherit'] })
  const ended = once(child, 'close')
  scope.teardown(async () => {
    child.kill()
    await ended
  })
  if (child.stdout === null) throw new Error('no stdout')
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  const next = async () => {
    const { value } = (await lines.next()) as { value: string }
    return JSON.parse(value) as { port: number; bytes: number; ms: number }
  }
  return {
    pid: child.pid ?? 0,
    next,
    ask(question: unknown) {
      child.stdin?.write(`${JSON.stringify(question)}\n`)
      return next()
    },
  }
}

async function main(scope: Scope): Promise<void> {
  const link = await makeLink(scope)
  const dir = tempDir(scope, 'peer-stream')
  const file = join(dir, 'file')
  const fd = openSync(file, 'w')
  const block = randomBytes(1024 ** 2)
  for (let at = 0; at < SIZE; at += block.length) writeSync(fd, block)
  closeSync(fd)
  const script = new URL('./lib/peer-end.js', import.meta.url).pathname
  const nginx = await startNginx(scope, dir, link.host)
  const server = await startEnd(scope, [
    ...[process.execPath, script, 'serve', link.host, file, String(SIZE)],
  ])
  const { port } = await server.next()
  const far = ['ip', 'netns', 'exec', link.netns]
  const reader = await startEnd(scope, [...far, process.execPath, script, 'read'])
  const peer = { host: link.host, port }
  const cpu: Record<string, { read: number[]; sent: number[] }> = {}

  const measured =
    (
      name: string,
      senders: () => readonly number[],
      work: () => Promise<{ bytes: number; ms: number }>,
    ) =>
    async () => {
      const before = [cpuSeconds([reader.pid]), cpuSeconds(senders())] as const
      const { bytes, ms } = await work()
      if (bytes !== SIZE) throw new Error(`${name}: ${bytes} of ${SIZE} bytes`)
      const gib = bytes / 1024 ** 3
      const one = (cpu[name] ??= { read: [], sent: [] })
      one.read.push((cpuSeconds([reader.pid]) - before[0]) / gib)
      one.sent.push((cpuSeconds(senders()) - before[1]) / gib)
      return bytes / 1e3 / ms
    }
  const curl = async () => {
    const { stdout } = await run('ip', [
      ...['netns', 'exec', link.netns, 'curl', '-sf', '-o', '/dev/null'],
      ...['-w', '%{size_download} %{time_total}', `${nginx.url}/file`],
    ])
    const [bytes = 0, seconds = 0] = stdout.split(' ').map(Number)
    return { bytes, ms: seconds * 1000 }
  }
  const result = await inRounds(
    {
      'nginx to node': measured('nginx to node', nginx.pids, () =>
        reader.ask({ url: `${nginx.url}/file` }),
      ),
      'nginx to curl': measured('nginx to curl', nginx.pids, curl),
      'peer to peer': measured(
        'peer to peer',
        () => [server.pid],
        () => reader.ask({ peer }),
      ),
    },
    rounds,
  )
  report('one stream over veth', 'MB/s', result)
  for (const [name, { read, sent }] of Object.entries(cpu)) {
    if (name !== 'nginx to curl') reportValue(`CPU of the reader | ${name}`, 's/GiB', median(read))
    reportValue(`CPU of the sender | ${name}`, 's/GiB', median(sent))
  }
}

const scope = createScope()
try {
  await main(scope)
} finally {
  await scope.close()
}
