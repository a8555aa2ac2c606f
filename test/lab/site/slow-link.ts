import { spawn, spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { run } from '../../helpers/run.ts'

/** What a cable does to frames, each direction alike. */
export interface Cable {
  readonly delayMs: number
  readonly jitterMs: number
  readonly lossPercent: number
}

/** A bad piece of cable between a switch's port and its bridge: the host sees no change but in time. */
export interface SlowLink {
  /** The device to plug into the bridge in the port's place. */
  readonly far: string
  set(cable: Partial<Cable>): Promise<void>
  /** Takes it out; the port is to be on its bridge again before. */
  close(): Promise<void>
}

const PROGRAM = fileURLToPath(new URL('slow-link.py', import.meta.url))

/** Why cables cannot be made bad, or false: for tap's `skip`. */
export const slowLinkSkip: false | string = !existsSync('/dev/net/tun')
  ? 'needs /dev/net/tun'
  : spawnSync('python3', ['--version']).status !== 0 && 'needs Python (apt-get install python3)'

/** Puts a slow link behind a port, in the switch's namespace: port - small bridge - TAP - program - TAP - (the network's bridge). */
export async function startSlowLink(space: string, port: string, id: number): Promise<SlowLink> {
  const [near, far, joint] = [`near${id}`, `far${id}`, `joint${id}`]
  const child = spawn('ip', ['netns', 'exec', space, 'python3', '-E', PROGRAM, near, far], {
    stdio: ['pipe', 'pipe', 'pipe'],
  })
  const ended = once(child, 'close')
  let complaint = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => (complaint += text))
  child.stdin.on('error', () => {}) // it ended; the next answer says so
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  const hear = async (word: string) => {
    const { value } = (await lines.next()) as { readonly value: string | undefined }
    if (value !== word) throw new Error(`the slow link ended: ${complaint}`)
  }
  await hear('ready')
  await run('ip', ['-n', space, '-batch', '-'], {
    input: [
      `link add ${joint} type bridge mcast_snooping 0`,
      `link set ${joint} up`,
      `link set ${near} up`,
      `link set ${far} up`,
      `link set ${near} master ${joint}`,
      `link set ${port} master ${joint}`,
      '',
    ].join('\n'),
  })
  return {
    far,
    async set(cable) {
      child.stdin.write(`${JSON.stringify(cable)}\n`)
      await hear('set')
    },
    async close() {
      child.stdin.end()
      await ended
      await run('ip', ['-n', space, 'link', 'del', joint])
    },
  }
}
