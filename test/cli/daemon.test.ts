import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:net'
import type { AddressInfo } from 'node:net'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import t from 'tap'
import { daemonSkip, fetchText } from '../helpers/daemon.ts'
import { freePort, tempDir, type Scope } from '../helpers/scope.ts'

/** What is shipped: a process of its own, with its worker threads. */
const MAIN = join(process.cwd(), 'dist/cli/main.js')

/** tap's hooks would make the start slow and write where the process may not. */
const plainEnv = (extra: NodeJS.ProcessEnv = {}): NodeJS.ProcessEnv => {
  const { PATH, HOME } = process.env
  return { PATH, HOME, ...extra }
}

async function makeConfig(scope: Scope, port?: number): Promise<string> {
  const dir = tempDir(scope, 'daemon')
  const file = join(dir, 'config.json')
  const config = {
    stateDir: join(dir, 'state'),
    http: { port: port ?? (await freePort()) },
    store: { enable: false },
    log: { level: 'silent' },
  }
  writeFileSync(file, JSON.stringify(config))
  return file
}

/** Starts `narwharf daemon` and collects the lines of its stdout until `count` have come. */
async function start(
  scope: Scope,
  argv: readonly string[],
  count: number,
  env: NodeJS.ProcessEnv = {},
) {
  // By /usr/bin/env, as tap adds its hooks to every Node it sees started.
  const child = spawn(
    '/usr/bin/env',
    ['-u', 'NODE_OPTIONS', process.execPath, MAIN, 'daemon', ...argv],
    {
      env: plainEnv(env),
      stdio: ['ignore', 'pipe', 'pipe'],
    },
  )
  scope.teardown(() => void child.kill('SIGKILL'))
  let stderr = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text))
  const ended = once(child, 'close') as Promise<[number | null, NodeJS.Signals | null]>
  const lines: string[] = []
  for await (const line of createInterface({ input: child.stdout })) {
    lines.push(line)
    if (lines.length === count) break
  }
  return { child, lines, ended, stderr: () => stderr }
}

const skip = daemonSkip

t.test('it says where it is, serves, and ends cleanly', { skip }, async t => {
  const port = await freePort()
  const file = await makeConfig(t, port)
  const { child, lines, ended, stderr } = await start(t, ['--config', file], 5)
  t.match(lines, [
    `narwharf serves at http://127.0.0.1:${port}`,
    `dashboard: http://127.0.0.1:${port}/`,
    'lines for nix.conf:',
    `  extra-substituters = http://127.0.0.1:${port}`,
    /^ {2}extra-trusted-public-keys = \S+:\S{43}=$/,
  ])
  t.match((await fetchText(`http://127.0.0.1:${port}/nix-cache-info`)).body, 'StoreDir: /nix/store')

  const second = spawnSync(
    '/usr/bin/env',
    ['-u', 'NODE_OPTIONS', process.execPath, MAIN, 'daemon', '--config', file],
    {
      encoding: 'utf8',
      env: plainEnv(),
    },
  )
  t.equal(second.status, 1)
  t.match(
    second.stderr,
    /^narwharf: another narwharf daemon \(pid \d+\) uses .* \(stop it first, .*--state-dir\)\n$/,
    'two daemons do not share a state directory',
  )
  child.kill('SIGTERM')
  t.same(await ended, [0, null])
  t.equal(stderr(), '')
})

t.test('--json is one line for a script, --quiet none', { skip }, async t => {
  const file = await makeConfig(t)
  const { child, lines, ended } = await start(t, ['--config', file, '--json'], 1)
  t.match(JSON.parse(lines[0] ?? ''), {
    url: /^http:\/\/127.0.0.1:\d+$/,
    dashboard: /\/$/,
    publicKey: /^\S+:\S{43}=$/,
    nixConf: /^extra-/,
  })
  child.kill('SIGINT')
  t.same(await ended, [0, null])
})

t.test('systemd is told', { skip }, async t => {
  const file = await makeConfig(t)
  const bin = tempDir(t, 'bin')
  const told = join(bin, 'told')
  writeFileSync(join(bin, 'systemd-notify'), `#!/bin/sh\necho "$@ $NOTIFY_SOCKET" >> ${told}\n`, {
    mode: 0o755,
  })
  const env = { NOTIFY_SOCKET: '/run/x', PATH: `${bin}:${process.env.PATH}` }
  const { child, ended } = await start(t, ['--config', file], 5, env)
  // It is told after the lines are printed; a signal is only taken after that.
  child.kill('SIGTERM')
  t.same(await ended, [0, null])
  t.equal(readFileSync(told, 'utf8'), '--ready /run/x\nSTOPPING=1 /run/x\n')

  const empty = { NOTIFY_SOCKET: '/run/x', PATH: tempDir(t, 'empty') }
  const deaf = await start(t, ['--config', await makeConfig(t)], 5, empty)
  while (deaf.stderr() === '') await once(deaf.child.stderr, 'data')
  t.match(
    deaf.stderr(),
    /^narwharf: systemd was not told that it is ready: systemd-notify cannot be run/,
  )
  deaf.child.kill('SIGTERM')
  t.same(await deaf.ended, [0, null], 'and it serves all the same')
})

t.test('what keeps it from starting is said', { skip }, async t => {
  const taken = createServer().listen(0, '127.0.0.1')
  await once(taken, 'listening')
  t.teardown(() => taken.close())
  const { port } = taken.address() as AddressInfo
  const failing = (...argv: string[]) =>
    spawnSync('/usr/bin/env', ['-u', 'NODE_OPTIONS', process.execPath, MAIN, 'daemon', ...argv], {
      encoding: 'utf8',
      env: plainEnv(),
    })
  const clash = failing('--config', await makeConfig(t, port))
  t.equal(clash.status, 1)
  t.match(
    clash.stderr,
    new RegExp(`^narwharf: port ${port} of 127.0.0.1 is taken \\(another daemon`),
  )
  const blocked = join(tempDir(t, 'x'), 'file')
  writeFileSync(blocked, '')
  const nowhere = failing('--defaults', '--state-dir', join(blocked, 'state'))
  t.equal(nowhere.status, 1)
  t.match(nowhere.stderr, /^narwharf: .*\(.*\)\n$/)
  t.notMatch(nowhere.stderr, /\n {4}at /, 'no stack')
})

t.test('help is instant, and a closed pipe no failure', { skip }, async t => {
  const cut = spawnSync(
    '/bin/bash',
    ['-c', 'set -o pipefail; "$0" "$1" --help | head -c 1', process.execPath, MAIN],
    { encoding: 'utf8', env: plainEnv() },
  )
  t.match(cut, { status: 0, stdout: 'U', stderr: '' })
  const loaded = spawnSync(
    '/bin/bash',
    ['-c', 'NODE_DEBUG=esm "$0" "$1" --help 2>&1 >/dev/null', process.execPath, MAIN],
    { encoding: 'utf8', env: plainEnv(), maxBuffer: 1 << 26 },
  )
  t.match(loaded.stdout, /commander/, 'what is loaded is seen')
  t.notMatch(loaded.stdout, /better-sqlite3|zod|fastify|cli-table3/, 'nothing slow is loaded')
})
