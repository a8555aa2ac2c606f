import { rmSync } from 'node:fs'
import { join } from 'node:path'
import type { NixHost } from './nix-host.ts'

/** A binary cache directory and the key that its narinfos are signed with. */
export interface BinaryCache {
  readonly dir: string
  readonly publicKey: string
}

export interface BinaryCacheOptions {
  readonly compression: 'none' | 'xz' | 'zstd' | 'bzip2' | 'gzip' | 'br'
  /** Also write `.ls` listings and debug info links. */
  readonly listings?: boolean
  /** Derivations whose build logs are copied too. */
  readonly logs?: readonly string[]
}

let made = 0

/** Copies closures out of a host's store into a new cache directory, as `nix copy` makes them, signed; it goes with the host. */
export async function makeBinaryCache(
  host: NixHost,
  paths: readonly string[],
  options: BinaryCacheOptions,
): Promise<BinaryCache> {
  const name = `cache-${++made}-${options.compression}`
  const query = new URLSearchParams({
    compression: options.compression,
    'secret-key': `/client/${name}.sec`,
    ...(options.compression === 'xz' && { 'compression-level': '1' }),
    ...(options.listings === true && { 'write-nar-listing': 'true', 'index-debug-info': 'true' }),
  })
  await host.run('sh', [
    '-euc',
    `nix-store --generate-binary-cache-key lab-${name} /client/${name}.sec /client/${name}.pub; url=$1; shift; nix copy --to "$url" "$@"`,
    'sh',
    `file:///client/${name}?${query.toString().replaceAll('%2F', '/')}`,
    ...paths,
  ])
  if (options.logs !== undefined) {
    await host.run('nix', ['store', 'copy-log', '--to', `file:///client/${name}`, ...options.logs])
  }
  const { stdout } = await host.run('cat', [`/client/${name}.pub`])
  rmSync(join(host.dir, `${name}.sec`))
  return { dir: join(host.dir, name), publicKey: stdout.trim() }
}
