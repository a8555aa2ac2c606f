import { run } from './run.ts'
import type { Scope } from './scope.ts'

/** A network of this machine's own with one other host on it, and a rate. */
export interface Link {
  /** Network namespace of the other end: for `ip netns exec`. */
  readonly netns: string
  /** Address of this end, where servers listen. */
  readonly host: string
  /** Sets the rate of both directions, bits per second; undefined: as fast as it goes. */
  setRate(bitsPerSecond: number | undefined): Promise<void>
}

/** Waits of the token bucket: about what a switch buffers. */
const BUCKET = ['burst', '256kb', 'latency', '50ms']

/** Makes a veth pair whose far end lies in a namespace of its own; addresses are of 198.18.0.0/15, the benchmark networks (RFC 2544). */
export async function makeLink(scope: Scope): Promise<Link> {
  const id = process.pid % 65_536
  const netns = `narwharf-${id}`
  const [near, far] = [`nwa${id}`, `nwb${id}`]
  const network = `198.${18 + (id >> 15)}.${(id >> 7) & 0xff}`
  const offset = (id & 0x3f) * 4
  const [host, client] = [`${network}.${offset + 1}`, `${network}.${offset + 2}`]
  const ip = (...words: string[]) => run('ip', words)
  await ip('netns', 'add', netns)
  scope.teardown(() => run('ip', ['netns', 'del', netns], { accept: 'any' }))
  await ip('link', 'add', near, 'type', 'veth', 'peer', 'name', far, 'netns', netns)
  scope.teardown(() => run('ip', ['link', 'del', near], { accept: 'any' }))
  await ip('addr', 'add', `${host}/30`, 'dev', near)
  await ip('link', 'set', near, 'up')
  await ip('-n', netns, 'addr', 'add', `${client}/30`, 'dev', far)
  await ip('-n', netns, 'link', 'set', far, 'up')
  await ip('-n', netns, 'link', 'set', 'lo', 'up')
  let limited = false
  return {
    netns,
    host,
    async setRate(bitsPerSecond) {
      for (const [device, namespace] of [
        [near, []],
        [far, ['-n', netns]],
      ] as const) {
        const tc = (...words: string[]) => run('tc', [...namespace, 'qdisc', ...words])
        if (limited) await tc('del', 'dev', device, 'root')
        if (bitsPerSecond === undefined) continue
        await tc('add', 'dev', device, 'root', 'tbf', 'rate', `${bitsPerSecond}bit`, ...BUCKET)
      }
      limited = bitsPerSecond !== undefined
    },
  }
}
