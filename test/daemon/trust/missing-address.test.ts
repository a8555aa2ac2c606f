import { createHash } from 'node:crypto'
import { copyFileSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import Database from 'better-sqlite3'
import t, { type Test } from 'tap'
import { createCatalog } from '../../../daemon/catalog/catalog.ts'
import type { Holding } from '../../../daemon/holders/holder.ts'
import { createNixStoreHolder } from '../../../daemon/holders/nix-store.ts'
import { createTrust } from '../../../daemon/trust/trust-room.ts'
import { hashPartOf, parseStorePath } from '../../../protocol/store-path.ts'
import { labSkip, makeNixHost, type NixHost } from '../../helpers/nix-host.ts'
import { tempDir } from '../../helpers/scope.ts'
import { createNarPool } from '../holders/child-pool.ts'

// What comes by `nix-store --import` has no content address in the database, whatever it had where it came from.

const FLAT = 'a flat file\n'
const hex = (algorithm: string, data: string) => createHash(algorithm).update(data).digest('hex')

/** Every kind of path that has a content address, and one that has none. */
const expression = (treeSha1: string, treeSha256: string, treeSha512: string) => `
let
  make = name: extra: script: derivation ({
    inherit name;
    system = builtins.currentSystem;
    builder = "/bin/sh";
    args = [ "-c" ("PATH=/usr/bin:/bin; " + script) ];
  } // extra);
  fixed = name: outputHashMode: outputHashAlgo: outputHash: script:
    make name { inherit outputHashMode outputHashAlgo outputHash; } script;
  writeFlat = "echo 'a flat file' > $out";
  writeTree = "mkdir $out; echo x > $out/file; echo y > $out/program; chmod +x $out/program; ln -s file $out/link";
  src = builtins.path { path = ./src; name = "source"; };
in {
  flat256 = fixed "flat256" "flat" "sha256" "${hex('sha256', FLAT)}" writeFlat;
  flat512 = fixed "flat512" "flat" "sha512" "${hex('sha512', FLAT)}" writeFlat;
  flat1 = fixed "flat1" "flat" "sha1" "${hex('sha1', FLAT)}" writeFlat;
  tree1 = fixed "tree1" "recursive" "sha1" "${treeSha1}" writeTree;
  tree256 = fixed "tree256" "recursive" "sha256" "${treeSha256}" writeTree;
  tree512 = fixed "tree512" "recursive" "sha512" "${treeSha512}" writeTree;
  text = make "text" { note = builtins.toFile "note" "see \${src}\\n"; } "cp $note $out";
  app = make "app" { inherit src; } "echo $src > $out";
}
`

async function imported(t: Test): Promise<{ host: NixHost; paths: string[] }> {
  const maker = makeNixHost(t)
  const src = join(maker.dir, 'src')
  mkdirSync(src)
  writeFileSync(join(src, 'main.c'), 'int main() {}\n')
  const making =
    'mkdir /client/tree; cd /client/tree; echo x > file; echo y > program; chmod +x program; ln -s file link'
  await maker.run('sh', ['-c', making])
  const hashOfTree = async (type: string) => {
    const [digits = ''] = await maker.words('nix-hash', '--type', type, '/client/tree')
    return digits
  }
  writeFileSync(
    join(maker.dir, 'default.nix'),
    expression(await hashOfTree('sha1'), await hashOfTree('sha256'), await hashOfTree('sha512')),
  )
  const drvs = await maker.words('nix-instantiate', '/client/default.nix')
  const outputs = await maker.words('nix-store', '--realise', ...drvs)
  const paths = await maker.words('nix-store', '-qR', ...drvs, ...outputs)
  const exporting = `nix-store --export ${paths.join(' ')} > /client/all.export`
  const exported = await maker.run('sh', ['-c', exporting])
  t.equal(exported.status, 0, exported.stderr)
  const host = makeNixHost(t)
  copyFileSync(join(maker.dir, 'all.export'), join(host.dir, 'all.export'))
  const { status, stderr } = await host.run('sh', ['-c', 'nix-store --import < /client/all.export'])
  t.equal(status, 0, stderr)
  return { host, paths }
}

t.test('content addresses that an import has lost', { skip: labSkip }, async t => {
  const { host, paths } = await imported(t)
  const db = join(host.nixDir, 'var/nix/db/db.sqlite')
  const database = new Database(db, { readonly: true })
  const lost = database.prepare('select count(*) from ValidPaths where ca is null').pluck().get()
  database.close()
  t.equal(lost, paths.length, 'none has an address in the database')

  const stateDir = tempDir(t, 'trust')
  const catalog = createCatalog({ file: join(stateDir, 'catalog.sqlite'), writerThread: false })
  await catalog.open()
  t.teardown(() => catalog.close())
  const pool = createNarPool()
  await pool.open()
  t.teardown(() => pool.close())
  const storeDir = '/nix/store'
  const holder = createNixStoreHolder({ root: host.root, storeDir, db, pool })
  await holder.open()
  t.teardown(() => holder.close())
  const trust = createTrust({
    secretKeyFile: join(stateDir, 'signing-key.secret'),
    hostName: 'lab',
    publicKeys: [],
    deny: [],
    store: 'ultimate',
    storeDir,
    catalog,
  })
  await trust.open()
  t.teardown(() => trust.close())

  const EXPECTED: readonly (readonly [name: RegExp, ca: RegExp | undefined])[] = [
    [/-flat256$/, /^fixed:sha256:/],
    [/-flat512$/, /^fixed:sha512:/],
    [/-flat1$/, /^fixed:sha1:/],
    [/-tree1$/, /^fixed:r:sha1:/],
    [/-tree256$/, /^fixed:r:sha256:/],
    [/-tree512$/, /^fixed:r:sha512:/],
    [/-source$/, /^fixed:r:sha256:/],
    [/-note$/, /^text:sha256:/],
    [/\.drv$/, /^text:sha256:/],
    [/-(app|text)$/, undefined],
  ]
  const seen = new Set<RegExp>()
  for (const path of paths) {
    const holding = holder.find(hashPartOf(parseStorePath(path))) as Holding
    t.equal(holding.info.ca, undefined, path)
    const decision = await trust.decide(holder, holding)
    const [name, ca] = EXPECTED.find(([pattern]) => pattern.test(path)) ?? []
    if (name === undefined) t.fail(`unexpected path ${path}`)
    else seen.add(name)
    if (ca === undefined) t.match(decision, { offered: false, reason: 'no-trusted-signature' })
    else t.match(decision, { offered: true, reason: 'content-addressed', public: true, ca }, path)
  }
  t.equal(seen.size, EXPECTED.length, 'every kind was there')
})
