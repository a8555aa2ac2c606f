import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { daemonSkip, type ConfigOverrides } from '../../helpers/daemon.ts'
import { labSkip } from '../../helpers/nix-host.ts'
import type { Scope } from '../../helpers/scope.ts'
import { guard, nextPrefix, sweep } from './leftovers.ts'
import { LAN, makeNetwork, type Network } from './network.ts'
import { makeSiteHost, type SiteHost } from './site-host.ts'

// A site of several hosts on this machine, each with its own network, Nix store and daemon. See docs/lab.md.

/** Why no network can be made, or false. */
const networkSkip: false | string =
  process.platform !== 'linux'
    ? 'needs Linux'
    : process.getuid?.() !== 0
      ? 'needs root (namespaces)'
      : spawnSync('ip', ['netns', 'list']).status !== 0 &&
        'needs network namespaces (apt-get install iproute2)'

/** Why no site can be made, or false: for tap's `skip`. */
export const siteSkip: false | string = networkSkip || labSkip || daemonSkip
export const siteSkipWithoutNix: false | string = networkSkip || daemonSkip

/** A host to be made: a name of lower-case letters and digits, the networks it is on, keys of its configuration. */
export interface HostSpec {
  readonly name: string
  readonly networks?: readonly string[]
  readonly config?: ConfigOverrides
}

export interface SiteOptions {
  readonly hosts: readonly (string | HostSpec)[]
  /** Whether hosts have Nix stores; default yes. */
  readonly nix?: boolean
  /** Keys of every host's configuration. */
  readonly config?: ConfigOverrides
}

export interface Site {
  /** The directory that holds all of it. */
  readonly dir: string
  readonly hosts: readonly SiteHost[]
  readonly network: Network
  host(name: string): SiteHost
  /** Starts the daemons that are off, all at once. */
  start(...names: string[]): Promise<void>
  /** `site init` on the first host, `invite` there and `join` on each of the others. Their daemons run. */
  unite(...names: string[]): Promise<void>
}

/** Interface names have 15 characters: the host's, a hyphen, the network's. */
const HOST_NAME = /^[a-z][a-z0-9]{0,7}$/

/** Makes the hosts and their networks; no daemon runs yet. All goes with the scope, or with this process, however it ends. */
export async function makeSite(scope: Scope, options: SiteOptions): Promise<Site> {
  await sweep()
  const prefix = nextPrefix()
  const clean = guard(prefix)
  scope.teardown(clean)
  const baseDir = mkdtempSync(join(tmpdir(), prefix))
  const specs = options.hosts.map(host => ({
    networks: [LAN],
    ...(typeof host === 'string' ? { name: host } : host),
  }))
  for (const { name } of specs) {
    if (!HOST_NAME.test(name)) throw new Error(`not a name for a host of the lab: ${name}`)
  }
  const network = await makeNetwork(prefix, specs)
  const hosts = specs.map(spec => {
    const { name } = spec
    const directory = join(baseDir, name)
    mkdirSync(directory)
    return makeSiteHost(scope, {
      name,
      netns: network.netns(name),
      baseDir: directory,
      withNix: options.nix ?? true,
      config: { ...options.config, ...spec.config },
      address: () => network.address(name, spec.networks[0]),
    })
  })
  const host = (name: string): SiteHost => {
    const found = hosts.find(each => each.name === name)
    if (found === undefined) throw new Error(`the site has no host ${name}`)
    return found
  }
  const named = (names: readonly string[]) => (names.length === 0 ? hosts : names.map(host))
  return {
    dir: baseDir,
    hosts,
    network,
    host,
    async start(...names) {
      await Promise.all(
        named(names)
          .filter(({ pid }) => pid === undefined)
          .map(each => each.start()),
      )
    },
    async unite(...names) {
      const [first, ...others] = named(names)
      if (first === undefined) return
      await first.narwharf(['site', 'init', 'lab'])
      for (const other of others) await admit(first, other)
    },
  }
}

/** Brings one host into the site of another. */
export async function admit(member: SiteHost, newcomer: SiteHost): Promise<void> {
  const { stdout } = await member.narwharf(['invite'])
  const code = stdout.trimEnd().split('\n').at(-1) ?? ''
  await newcomer.narwharf(['join', code])
}
