import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Holder } from '../../daemon/holders/holder.ts'
import { parseStorePath, type StorePath } from '../../protocol/store-path.ts'
import { fakeHolder } from './fake-holder.ts'
import { tempDir, type Scope } from './scope.ts'

// Real closures of derivations, of nixpkgs 20.09, as .drv files beside the project.

const DATA = '../shared/data/nixpkgs-20.09'

export type DrvClosure = 'hello' | 'nixos-minimal' | 'desktop'

/** Why a closure cannot be read here, or false. */
export function drvClosureSkip(name: DrvClosure): string | false {
  if (!existsSync(join(DATA, `drv-closure-${name}.tar.zst`))) return 'the data is not here'
  return spawnSync('zstd', ['--version']).status === 0 ? false : 'zstd is not installed'
}

/** A holder with nothing but .drv files, in memory. */
export function holderOfDerivations(drvs: ReadonlyMap<StorePath, Buffer>): Holder {
  const holder = fakeHolder('cache-dir:/drvs')
  const bytesOf = new Map([...drvs].map(([path, bytes]) => [path.slice(11, 43), { path, bytes }]))
  return {
    ...holder,
    find(hashPart) {
      const found = bytesOf.get(hashPart)
      if (found === undefined) return undefined
      const info = {
        ...{ storePath: found.path, narSize: found.bytes.length, references: [], signatures: [] },
        narHash: { algorithm: 'sha256', bytes: Buffer.alloc(32) } as const,
      }
      return { info, identity: hashPart, builtHere: false, compression: 'none' }
    },
    readFile: async ({ info }) => bytesOf.get(info.storePath.slice(11, 43))?.bytes,
  }
}

/** The .drv files of a closure. */
export function drvClosure(scope: Scope, name: DrvClosure): Map<StorePath, Buffer> {
  const dir = tempDir(scope, 'drvs')
  const file = join(DATA, `drv-closure-${name}.tar.zst`)
  const { status } = spawnSync('tar', ['--zstd', '-xf', file, '-C', dir])
  if (status !== 0) throw new Error(`cannot unpack ${file}`)
  const store = join(dir, 'nix/store')
  return new Map(
    readdirSync(store).map(base => [
      parseStorePath(`/nix/store/${base}`),
      readFileSync(join(store, base)),
    ]),
  )
}

/** The fixed outputs below a closure as the list beside it has them: path, hash, URLs. */
export function fixedOutputsOf(name: 'hello'): readonly (readonly [string, string])[] {
  return readFileSync(join(DATA, `fods-${name}.tsv`), 'utf8')
    .trim()
    .split('\n')
    .map(line => line.split('\t'))
    .map(([path = '', algorithm = '', hash = '']) => [
      path,
      algorithm.startsWith('r:') ? `r:${algorithm.slice(2)}:${hash}` : `${algorithm}:${hash}`,
    ])
}
