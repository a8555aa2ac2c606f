import type { Test } from 'tap'
import { createCatalog, type Catalog } from '../../daemon/catalog/catalog.ts'
import type { Holding, HolderKind } from '../../daemon/holders/holder.ts'
import { createTrust, type TrustOptions } from '../../daemon/trust/trust-room.ts'
import { formatContentAddress } from '../../protocol/content-address.ts'
import type { ContentAddress } from '../../protocol/content-address.ts'
import { formatHash, hashOf, type HashAlgorithm } from '../../protocol/hash.ts'
import type { PathInfo } from '../../protocol/path-info.ts'
import { formatPublicKey, generateKeyPair, publicKeyOf, sign } from '../../protocol/signature.ts'
import {
  computeFixedOutputPath,
  computeTextPath,
  hashPartOf,
  type BaseName,
  type StorePath,
} from '../../protocol/store-path.ts'
import { join } from 'node:path'
import { fakeHolder, fakePath } from './fake-holder.ts'
import { tempDir } from './scope.ts'

export const trusted = generateKeyPair('cache.example.org-1')
export const stranger = generateKeyPair('stranger-1')
export const publicKeys = [formatPublicKey(publicKeyOf(trusted))]

export const narString = (text: string | Buffer): Buffer => {
  const bytes = Buffer.from(text)
  const out = Buffer.alloc(8 + Math.ceil(bytes.length / 8) * 8)
  out.writeUInt32LE(bytes.length)
  bytes.copy(out, 8)
  return out
}
export const narOf = (...strings: (string | Buffer)[]) => Buffer.concat(strings.map(narString))
export const fileNar = (content: string | Buffer) =>
  narOf('nix-archive-1', '(', 'type', 'regular', 'contents', content, ')')
export const programNar = (content: string) =>
  narOf('nix-archive-1', '(', 'type', 'regular', 'executable', '', 'contents', content, ')')
export const emptyDirNar = narOf('nix-archive-1', '(', 'type', 'directory', ')')

export const infoOf = (
  storePath: StorePath,
  nar: Buffer,
  more: Partial<PathInfo> = {},
): PathInfo => ({
  storePath,
  narHash: hashOf('sha256', nar),
  narSize: nar.length,
  references: [],
  signatures: [],
  ...more,
})

/** A fixed output of that content and how its address reads. */
export function fixed(
  name: string,
  method: 'flat' | 'recursive',
  algorithm: HashAlgorithm,
  data: Buffer,
) {
  const hash = hashOf(algorithm, data)
  const path = computeFixedOutputPath({ name, method, hash })
  const ca: ContentAddress = { kind: 'fixed', method, hash }
  return { path, hash, ca: formatContentAddress(ca) }
}

export interface Parts {
  readonly stateDir?: string
  readonly catalog?: Catalog
  readonly options?: Partial<TrustOptions>
  readonly kind?: HolderKind
}

/** A holder that can say "built here" and read single files, and trust over a real catalog. */
export async function rig(t: Test, { stateDir = tempDir(t, 'trust'), options, kind }: Parts = {}) {
  const catalog = createCatalog({ file: join(stateDir, 'catalog.sqlite'), writerThread: false })
  await catalog.open()
  const trust = createTrust({
    secretKeyFile: join(stateDir, 'signing-key.secret'),
    hostName: 'lab-3',
    publicKeys,
    deny: ['*-secrets-*'],
    store: 'ultimate',
    storeDir: '/nix/store',
    catalog,
    ...options,
  })
  await trust.open()
  const holder = fakeHolder(`${kind ?? 'cache-dir'}:/x`, kind)
  holder.readFile = async ({ info }: Holding, inside, limit) => {
    const nar = holder.content.get(hashPartOf(info.storePath))?.nar ?? Buffer.alloc(0)
    const size = Number(nar.readBigUInt64LE(88))
    return inside !== '' || size > limit ? undefined : nar.subarray(96, 96 + size)
  }
  const close = async () => {
    await trust.close()
    await catalog.close()
  }
  t.teardown(close)
  const decide = (info: PathInfo, builtHere = false) => {
    const holding = holder.find(hashPartOf(info.storePath)) as Holding
    return trust.decide(holder, { ...holding, builtHere })
  }
  return { stateDir, catalog, trust, holder, close, decide }
}

export const input = (name: string, nar = emptyDirNar, more: Partial<PathInfo> = {}): PathInfo => ({
  ...fakePath(name, nar),
  ...more,
})
export const signed = (info: PathInfo, ...keys: (typeof trusted)[]): PathInfo => ({
  ...info,
  signatures: [...info.signatures, ...keys.map(key => sign(info, key))],
})
export const refused = (
  reason: 'no-trusted-signature' | 'denied' | 'ca-mismatch',
  ...keys: string[]
) => ({ offered: false, reason, untrustedKeys: keys }) as const

export const text = Buffer.from('a text\n')
export const textNar = fileNar(text)
export const other = fileNar('another content\n')
export const reference = 'a'.repeat(32) + '-lib'
export const references = [reference as BaseName]

export const flat256 = fixed('source.tar.gz', 'flat', 'sha256', text)
export const flat512 = fixed('source.tar.xz', 'flat', 'sha512', text)
export const flat1 = fixed('old.tar.gz', 'flat', 'sha1', text)
export const tree1 = fixed('texlive-pkg', 'recursive', 'sha1', emptyDirNar)
export const source = fixed('source', 'recursive', 'sha256', emptyDirNar)
export const md5Path = fixed('ancient.tar.gz', 'flat', 'md5', text)
export const toFile = computeTextPath({
  name: 'builder.sh',
  hash: hashOf('sha256', text),
  references,
})

export const fodText = (name: string, { path, hash }: ReturnType<typeof fixed>, method: string) =>
  Buffer.from(
    `Derive([("out","${path}","${method}${hash.algorithm}","${formatHash(hash, 'base16', false)}")],[],[],` +
      `"x86_64-linux","/bin/sh",[],[("name","${name}"),("out","${path}")])`,
  )
export function derivation(name: string, content: Buffer) {
  const hash = hashOf('sha256', content)
  const storePath = computeTextPath({ name: `${name}.drv`, hash, references: [] })
  const nar = fileNar(content)
  return { info: infoOf(storePath, nar), nar }
}
export const treeDrv = derivation('texlive-pkg', fodText('texlive-pkg', tree1, 'r:'))
export const inputDrv = derivation(
  'app',
  Buffer.from(
    `Derive([("out","${input('app').storePath}","","")],[],[],"x86_64-linux","/bin/sh",[],[("out","${input('app').storePath}")])`,
  ),
)
