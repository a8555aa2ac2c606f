import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'
import type { Command } from '../helpers/nix-host.ts'
import { createScope } from '../helpers/scope.ts'
import { ORDERS } from './site/orders.ts'
import { until } from './site/until.ts'
import { meshed } from './site/views.ts'
import { makeSite, siteSkip, siteSkipWithoutNix, type Site } from './site/site.ts'

// npm run lab: a site to play with, of several hosts on this machine. docs/lab.md is the tour.

const USAGE = `usage: npm run lab -- [OPTION...]          a site of five hosts, until Ctrl-C
       npm run lab enter HOST [COMMAND...]  a shell (or a command) in a host of the running lab

  --hosts N    how many hosts, 1 to 20 (default 5): a, b, c...
  --no-nix     hosts without Nix stores, which start where there is no Nix
  --strangers  do not make them one site: to try site init, invite and join by hand
  --run FILE   read the orders from FILE (- is standard input), then end
`

/** What a running lab leaves for `enter`: how to get into each host. */
const DOORS = 'lab.json'
const LETTERS = 'abcdefghijklmnopqrst'
const DEFAULT_HOSTS = 5
/** Twenty daemons on two processors. */
const MESH_LIMIT_MS = 120_000

type Doors = Readonly<Record<string, Command>>

/** The hosts of the lab that runs; of several, the one that started last. */
function findDoors(): Doors {
  const files = readdirSync(tmpdir())
    .filter(name => /^nwh-\d+-\d+-/.test(name))
    .map(name => ({ pid: Number(name.split('-')[1]), file: join(tmpdir(), name, DOORS) }))
    .filter(({ pid, file }) => existsSync(file) && existsSync(`/proc/${pid}`))
    .sort((one, other) => one.pid - other.pid)
  const newest = files.at(-1)
  if (newest === undefined) throw new Error('no lab is running (start it: npm run lab)')
  return JSON.parse(readFileSync(newest.file, 'utf8')) as Doors
}

/** Runs a command in a host with this terminal; resolves to its exit status. */
async function enter(door: Command, words: readonly string[]): Promise<number> {
  const args = words.length === 0 ? door.args : [...door.args.slice(0, -2), ...words]
  const child = spawn(door.program, [...args], { stdio: 'inherit', env: door.env })
  await once(child, 'close')
  return child.exitCode ?? 1
}

/** One line behind the prompt: an order, or `HOST COMMAND...`. */
async function obey(site: Site, line: string): Promise<void> {
  const [first = '', ...words] = line.split(/\s+/).filter(word => word !== '')
  if (first === '' || first.startsWith('#')) return
  if (first === 'help') {
    console.log(help())
    return
  }
  const order = ORDERS[first]
  if (order !== undefined) {
    const text = await order.run(site, words)
    if (text !== undefined) console.log(text)
    return
  }
  if (!site.hosts.some(({ name }) => name === first)) {
    throw new Error(`no order and no host is called ${first} (help lists them)`)
  }
  const command = line.trim().slice(first.length).trim()
  const door = site.host(first).enter(['/bin/sh', '-c', command === '' ? 'exec bash' : command])
  const child = spawn(door.program, [...door.args], { stdio: 'inherit', env: door.env })
  await once(child, 'close')
  if (child.exitCode !== 0) console.log(`(exit status ${child.exitCode ?? child.signalCode})`)
}

const help = () =>
  [
    ...Object.values(ORDERS).map(({ usage, about }) => [usage, about]),
    ['HOST COMMAND...', 'run a command in a host: b narwharf peers'],
    ['help', 'these lines'],
  ]
    .map(([usage = '', about]) => `  ${usage.padEnd(31)} ${about}`)
    .join('\n')

function guide(site: Site): string {
  const rows = site.hosts.map(({ name, address }) => [
    name,
    address,
    `npm run lab enter ${name}`,
    `${name} narwharf status`,
  ])
  const widths = [0, 1, 2].map(column =>
    Math.max(
      ...[['HOST', 'ADDRESS', 'SHELL, FROM ANOTHER TERMINAL'], ...rows].map(
        row => (row[column] ?? '').length,
      ),
    ),
  )
  const print = (row: readonly string[]) =>
    row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join('  ')
  return [
    '',
    print(['HOST', 'ADDRESS', 'SHELL, FROM ANOTHER TERMINAL', 'A COMMAND, HERE']),
    ...rows.map(print),
    '',
    'Every host has nix and narwharf. Orders (help lists all): cut b, mend b, kill a, start a, delay c 40.',
    'The tour: docs/lab.md. Ctrl-C ends the lab and removes all of it.',
    '',
  ].join('\n')
}

/** Lines of a file, or what a person types; the latter until `ended` too. */
async function* orders(from: string | undefined, ended: Promise<void>): AsyncGenerator<string> {
  if (from !== undefined) {
    for (const line of readFileSync(from === '-' ? 0 : from, 'utf8').split('\n')) {
      if (line.trim() !== '') console.log(`lab> ${line}`)
      yield line
    }
    return
  }
  const lines = createInterface({ input: process.stdin, output: process.stdout, prompt: 'lab> ' })
  lines.on('SIGINT', () => process.kill(process.pid, 'SIGINT'))
  void ended.then(() => lines.close())
  lines.prompt()
  for await (const line of lines) {
    // A command in a host has the terminal to itself.
    lines.pause()
    yield line
    lines.resume()
    lines.prompt()
  }
}

async function play(site: Site, from: string | undefined, ended: Promise<void>): Promise<void> {
  if (from === undefined && !process.stdin.isTTY) return ended
  const obeying = async () => {
    for await (const line of orders(from, ended)) {
      await obey(site, line).catch((error: unknown) => {
        console.log(`lab: ${(error as Error).message}`)
      })
    }
  }
  return Promise.race([obeying(), ended])
}

async function main(): Promise<number> {
  if (process.argv[2] === 'enter') {
    const [name = '', ...words] = process.argv.slice(3)
    const door = findDoors()[name]
    if (door === undefined) throw new Error(`the lab has no host ${name}`)
    return enter(door, words)
  }
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      hosts: { type: 'string' },
      'no-nix': { type: 'boolean' },
      strangers: { type: 'boolean' },
      run: { type: 'string' },
      help: { type: 'boolean' },
    },
  })
  const count = Number(values.hosts ?? DEFAULT_HOSTS)
  if (values.help === true || positionals.length > 0 || !(count >= 1 && count <= LETTERS.length)) {
    console.log(USAGE)
    return values.help === true ? 0 : 2
  }
  const nix = values['no-nix'] !== true
  const reason = nix ? siteSkip : siteSkipWithoutNix
  if (reason !== false) throw new Error(`the lab ${reason}`)

  const scope = createScope()
  const ended = new Promise<void>(resolve => {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, resolve)
  })
  try {
    console.log(`lab: making ${count} hosts`)
    const site = await makeSite(scope, { hosts: LETTERS.slice(0, count).split(''), nix })
    const doors = site.hosts.map(host => [host.name, host.enter()])
    writeFileSync(join(site.dir, DOORS), JSON.stringify(Object.fromEntries(doors)))
    await site.start()
    if (values.strangers !== true) {
      console.log('lab: making them one site')
      await site.unite()
      await until('all hosts are connected', MESH_LIMIT_MS, () => meshed(site.hosts))
    }
    console.log(guide(site))
    await play(site, values.run, ended)
  } finally {
    console.log('lab: removing all of it')
    await scope.close()
  }
  return 0
}

try {
  process.exitCode = await main()
} catch (error) {
  console.error(`lab: ${(error as Error).message}`)
  process.exitCode = 1
}
