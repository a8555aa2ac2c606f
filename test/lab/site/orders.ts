import { setTimeout } from 'node:timers/promises'
import type { Site } from './site.ts'

/** What a person may do to a running site: words behind a prompt. */
export interface Order {
  readonly usage: string
  readonly about: string
  /** Resolves to what to print. Throws Error with what is wrong. */
  run(site: Site, words: readonly string[]): Promise<string | void>
}

const RATE = /^(\d+(?:\.\d+)?)(k|m|g)?bit$/i
const RATE_FACTOR: Readonly<Record<string, number>> = { k: 1e3, m: 1e6, g: 1e9 }

function parseRate(text: string): number {
  const [, number, unit = ''] = RATE.exec(text) ?? []
  if (number === undefined) throw new Error(`not a rate: ${text} (say 10mbit, 64kbit or off)`)
  return Number(number) * (RATE_FACTOR[unit.toLowerCase()] ?? 1)
}

function parseNumber(text: string | undefined, what: string): number {
  const value = Number(text)
  if (text === undefined || !Number.isFinite(value) || value < 0) {
    throw new Error(`not ${what}: ${text ?? 'nothing'}`)
  }
  return value
}

/** Hosts named by words; a site of five has no use for patterns. */
const named = (site: Site, words: readonly string[]) => {
  if (words.length === 0) throw new Error('which host?')
  return words.map(word => site.host(word))
}

const cable =
  (change: (words: readonly string[]) => Parameters<Site['network']['setCable']>[1]) =>
  async (site: Site, [name = '', ...rest]: readonly string[]) =>
    site.network.setCable(site.host(name).name, rest[0] === 'off' ? undefined : change(rest))

/** Every order by its first word. */
export const ORDERS: Readonly<Record<string, Order>> = {
  kill: {
    usage: 'kill HOST...',
    about: 'end the daemon at once (SIGKILL)',
    run: async (site, words) => {
      for (const host of named(site, words)) await host.kill()
    },
  },
  stop: {
    usage: 'stop HOST...',
    about: 'end the daemon in good order (SIGTERM)',
    run: async (site, words) => {
      for (const host of named(site, words)) await host.stop()
    },
  },
  start: {
    usage: 'start HOST...',
    about: 'start the daemon again',
    run: async (site, words) => {
      await site.start(...named(site, words).map(({ name }) => name))
    },
  },
  cut: {
    usage: 'cut HOST...',
    about: 'pull the host’s network cable',
    run: async (site, words) => {
      for (const { name } of named(site, words)) await site.network.cut(name)
    },
  },
  mend: {
    usage: 'mend HOST...',
    about: 'plug it in again',
    run: async (site, words) => {
      for (const { name } of named(site, words)) await site.network.mend(name)
    },
  },
  split: {
    usage: 'split HOST,HOST HOST,HOST...',
    about: 'break the network into islands',
    run: async (site, words) => {
      const islands = words.map(word => named(site, word.split(',')).map(({ name }) => name))
      if (islands.length < 2) throw new Error('give two islands or more: split a,b c,d,e')
      await site.network.split(islands)
    },
  },
  merge: {
    usage: 'merge',
    about: 'make one network of them again',
    run: site => site.network.merge(),
  },
  address: {
    usage: 'address HOST',
    about: 'give the host another address',
    run: (site, words) => site.network.setAddress(named(site, words)[0]?.name ?? ''),
  },
  rate: {
    usage: 'rate HOST 10mbit|off',
    about: 'limit the rate of its cable',
    run: async (site, [name = '', rate = '']) =>
      site.network.setRate(site.host(name).name, rate === 'off' ? undefined : parseRate(rate)),
  },
  delay: {
    usage: 'delay HOST MS [JITTER-MS]|off',
    about: 'delay every packet, both ways',
    run: cable(([delay, jitter = '0']) => ({
      delayMs: parseNumber(delay, 'a delay in milliseconds'),
      jitterMs: parseNumber(jitter, 'a jitter in milliseconds'),
    })),
  },
  loss: {
    usage: 'loss HOST PERCENT|off',
    about: 'lose packets, both ways',
    run: cable(([percent]) => ({ lossPercent: parseNumber(percent, 'a percentage') })),
  },
  multicast: {
    usage: 'multicast on|off',
    about: 'whether the switch passes multicast (mDNS) on',
    run: async (site, [word = '']) => {
      if (word !== 'on' && word !== 'off') throw new Error('on or off?')
      await site.network.setMulticast(word === 'on')
    },
  },
  wait: {
    usage: 'wait SECONDS',
    about: 'do nothing for a while: for files of orders',
    run: async (_site, words) => {
      await setTimeout(parseNumber(words[0], 'a number of seconds') * 1000)
    },
  },
  log: {
    usage: 'log HOST',
    about: 'the last lines of its daemon’s log',
    run: async (site, words) =>
      (named(site, words)[0]?.log() ?? '').split('\n').slice(-LOG_LINES).join('\n'),
  },
}

const LOG_LINES = 20
