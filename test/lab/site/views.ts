import { appendFileSync } from 'node:fs'
import { loadavg } from 'node:os'
import type { Test } from 'tap'
import type { PathHolders, WhoHasReply } from '../../../protocol/api.ts'
import { watchMachine } from './machine.ts'
import type { SiteHost } from './site-host.ts'

// What hosts say of one another, asked over their control sockets.

/** What is read of `GET /api/v1/peers`. */
export interface PeersView {
  readonly peers: readonly { readonly key: string; readonly name: string; readonly up: boolean }[]
}

/** Names of the other hosts that a host is connected with. */
export async function peersUp(host: SiteHost): Promise<string[]> {
  const { peers } = await host.api<PeersView>('peers')
  return peers
    .filter(({ up }) => up)
    .map(({ name }) => name)
    .sort()
}

/** Whether each of these hosts is connected with all the others. */
export async function meshed(hosts: readonly SiteHost[]): Promise<boolean> {
  const seen = await Promise.all(hosts.map(host => peersUp(host)))
  return hosts.every((host, index) =>
    hosts.every(other => other === host || seen[index]?.includes(other.name)),
  )
}

/** What a host's `who-has` says of a path; undefined: nobody has it. */
export async function whoHas(host: SiteHost, path: string): Promise<PathHolders | undefined> {
  const { results } = await host.api<WhoHasReply>(`who-has?query=${encodeURIComponent(path)}`)
  return results[0]?.matches.find(({ storePath }) => storePath === path)
}

/** Whether a host knows that another has a path. */
export async function knows(host: SiteHost, path: string, holder: SiteHost): Promise<boolean> {
  const found = await whoHas(host, path)
  return found?.holders.some(each => each.host === holder.name) ?? false
}

/** Whether all of these know of each of the others' paths: `paths[i]` was built on `hosts[i]`. */
export async function knowAll(
  hosts: readonly SiteHost[],
  paths: readonly string[],
): Promise<boolean> {
  const answers = await Promise.all(
    hosts.map(async host => {
      const query = paths.map(path => `query=${encodeURIComponent(path)}`).join('&')
      const { results } = await host.api<WhoHasReply>(`who-has?${query}`)
      return hosts.every((holder, index) =>
        results[index]?.matches.some(
          ({ storePath, holders }) =>
            storePath === paths[index] && holders.some(each => each.host === holder.name),
        ),
      )
    }),
  )
  return answers.every(Boolean)
}

/** A host's key among its peers, as `network.peers` of the others has it. */
export async function peerKey(host: SiteHost): Promise<string> {
  const { stdout } = await host.narwharf(['members', '--json'])
  type Member = { readonly name: string; readonly key: string }
  const { members } = JSON.parse(stdout) as { readonly members: readonly Member[] }
  const own = members.find(({ name }) => name === host.name)
  if (own === undefined) throw new Error(`${host.name} is not among its members`)
  return own.key
}

/** The narinfo's URL of a path. */
export const narinfoPath = (path: string): string =>
  `/${path.slice('/nix/store/'.length).slice(0, 32)}.narinfo`

/**
 * Notes a figure for docs/site.md: as a comment of the test, and as a line of JSON in the file that `NARWHARF_LAB_FIGURES` names.
 * The load stands beside it, as a figure taken on a busy machine says little of narwharf.
 */
export function record(t: Test, what: string, value: number, unit = 'ms'): void {
  const rounded = Math.round(value * 10) / 10
  const [load = 0] = loadavg()
  t.comment(`${what}: ${rounded} ${unit} (load ${load.toFixed(1)})`)
  const file = process.env.NARWHARF_LAB_FIGURES
  if (file === undefined) return
  appendFileSync(file, `${JSON.stringify({ what, value: rounded, unit, load })}\n`)
}

/** From the file's start on. Elsewhere than on Linux the lab skips all there is. */
const machine = process.platform === 'linux' ? watchMachine() : undefined

/**
 * Notes a time in ms beside the aim of the issue. A missed one is shown as skipped, with what else the machine did: how
 * fast a machine is fails no test; that it happens at all is held by the deadline of whoever waited.
 */
export function within(t: Test, what: string, value: number, aim: number): void {
  record(t, what, value)
  const { processors } = machine?.others(value) ?? { processors: 0 }
  const skip =
    value >= aim && `${Math.round(value)} ms; others took ${processors.toFixed(1)} processors`
  t.ok(value < aim, `${what}: under ${aim} ms`, { skip })
}
