import type { NixHost } from './nix-host.ts'
import { run } from './run.ts'

/** Points a host's Nix at substituters, first one asked first, and nothing else. */
export function useSubstituters(
  host: NixHost,
  urls: readonly string[],
  keys: readonly string[],
  conf: Readonly<Record<string, string>> = {},
): void {
  // Nix sorts substituters by their priority, equal ones by their place in the list.
  host.setConf({
    substituters: urls.join(' '),
    'trusted-public-keys': keys.join(' '),
    ...conf,
  })
}

/**
 * What differs between two hosts' copies of store paths, looked at without Nix: types, modes, link targets, contents. Empty when
 * they are byte for byte the same.
 */
export async function differences(
  left: NixHost,
  right: NixHost,
  paths: readonly string[],
): Promise<string[]> {
  const names = paths.map(path => path.slice('/nix/store/'.length))
  const script = `cd "$1"; shift; find "$@" -printf '%p %y %#m %l\\0' | sort -z; find "$@" -type f -print0 | sort -z | xargs -0r sha256sum`
  const [a = '', b = ''] = await Promise.all(
    [left, right].map(async host => {
      const arguments_ = ['-euc', script, 'sh', host.physical('/nix/store'), ...names]
      return (await run('sh', arguments_, { env: { ...process.env, LC_ALL: 'C' } })).stdout
    }),
  )
  if (a === b) return []
  const lines = (text: string) => new Set(text.split(/[\0\n]/))
  const [ours, theirs] = [lines(a), lines(b)]
  return [
    ...[...ours].filter(line => !theirs.has(line)).map(line => `- ${line}`),
    ...[...theirs].filter(line => !ours.has(line)).map(line => `+ ${line}`),
  ]
}

/** What `nix-store --verify --check-contents` complains of; empty when the store is whole. */
export async function storeProblems(host: NixHost): Promise<string[]> {
  const { status, stdout, stderr } = await host.run('nix-store', ['--verify', '--check-contents'], {
    accept: 'any',
  })
  const lines = `${stdout}\n${stderr}`
    .split('\n')
    .filter(line => line !== '' && !/^(reading|checking) /.test(line))
  return status === 0 ? lines : [`exit status ${status}`, ...lines]
}
