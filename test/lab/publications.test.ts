import { createHash } from 'node:crypto'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { daemonSkip, startDaemon } from '../helpers/daemon.ts'
import { useSubstituters } from '../helpers/nix-client.ts'
import { labSkip, makeNixHost, nixVersions } from '../helpers/nix-host.ts'
import { startProxy } from '../helpers/proxy.ts'
import { run } from '../helpers/run.ts'
import { tempDir } from '../helpers/scope.ts'

// A channel, a flake and sources, from the daemon alone: nothing else can be reached.

const FEATURES = { 'experimental-features': 'nix-command flakes' }
const REVISION = '5f0b1e5f0b1e5f0b1e5f0b1e5f0b1e5f0b1e5f0b'
const SYSTEM_DRV = `derivation {
  name = "hello-2.12"; system = builtins.currentSystem or "x86_64-linux"; builder = "/bin/sh";
  args = [ "-c" "echo hello > $out" ];
}`

/** What a channel of nixpkgs is made of, small. */
const TREE: Readonly<Record<string, string>> = {
  'default.nix': `{ ... }: { hello = ${SYSTEM_DRV}; }`,
  'flake.nix': `{ outputs = { self }: { packages.x86_64-linux.hello = (import ./default.nix { }).hello; greeting = "from the mirror"; }; }`,
}

async function makeChannel(scope: Parameters<typeof tempDir>[0], cacheDir: string): Promise<void> {
  const tree = join(tempDir(scope, 'channel-tree'), 'nixexprs')
  const channel = join(cacheDir, 'narwharf/channels/nixos-20.09')
  for (const dir of [tree, channel]) mkdirSync(dir, { recursive: true })
  for (const [name, text] of Object.entries(TREE)) writeFileSync(join(tree, name), text)
  const tarball = join(channel, 'nixexprs.tar.xz')
  await run('tar', ['-cJf', tarball, '-C', join(tree, '..'), 'nixexprs'])
  writeFileSync(join(channel, 'git-revision'), REVISION)
}

for (const version of nixVersions()) {
  t.test(
    `Nix ${version.version}: a channel and a flake`,
    { skip: labSkip || daemonSkip },
    async t => {
      const cacheDir = tempDir(t, 'published-cache')
      await makeChannel(t, cacheDir)
      const daemon = await startDaemon(t, { cache: { dir: cacheDir } })
      const proxy = await startProxy(t, daemon.url)
      const client = makeNixHost(t, { version, conf: FEATURES })
      useSubstituters(client, [proxy.url], [daemon.publicKey], {
        'flake-registry': `${proxy.url}/flakes/registry.json`,
        sandbox: 'false',
      })

      await client.run('nix-channel', ['--add', `${proxy.url}/channels/nixos-20.09`, 'nixos'])
      await client.run('nix-channel', ['--update'])
      t.same(await client.words('nix-env', '-qaP', '-f', '<nixos>'), ['hello', 'hello-2.12'])
      const fetched = `builtins.readFile "\${fetchTarball "${proxy.url}/channels/nixos-20.09/nixexprs.tar.xz"}/default.nix"`
      const read = await client.run('nix-instantiate', ['--eval', '-E', fetched])
      t.match(read.stdout, /hello-2\.12/)

      const flake = await client.run('nix', ['eval', '--raw', 'nixpkgs#greeting'])
      t.equal(flake.stdout.trim(), 'from the mirror')
      mkdirSync(join(client.dir, 'mine'))
      writeFileSync(
        join(client.dir, 'mine/flake.nix'),
        '{ inputs.nixpkgs.url = "nixpkgs"; outputs = { self, nixpkgs }: { said = nixpkgs.greeting; }; }',
      )
      const said = ['eval', '--raw', 'path:/client/mine#said']
      t.equal((await client.run('nix', said)).stdout.trim(), 'from the mirror')
      const built = await client.words('nix-build', '--no-out-link', '<nixos>', '-A', 'hello')
      t.match(built[0] ?? '', /-hello-2\.12$/)
      t.same(
        proxy.exchanges.filter(({ status }) => status >= 500),
        [],
      )
      await client.run('nix', ['flake', 'lock', 'path:/client/mine'], { accept: 'any' })
      const asked = proxy.exchanges.map(({ url }) => url)
      t.ok(
        asked.some(url => url.startsWith('/flakes/nixpkgs')),
        'the tarball came from here',
      )
    },
  )

  t.test(
    `Nix ${version.version}: sources by their hash`,
    { skip: labSkip || daemonSkip },
    async t => {
      const cacheDir = tempDir(t, 'mirror-cache')
      const source = Buffer.from('the source of something\n')
      const hex = createHash('sha256').update(source).digest('hex')
      mkdirSync(join(cacheDir, 'narwharf/tarballs/sha256'), { recursive: true })
      writeFileSync(join(cacheDir, `narwharf/tarballs/sha256/${hex}`), source)
      const daemon = await startDaemon(t, { cache: { dir: cacheDir } })
      const client = makeNixHost(t, { version, conf: FEATURES })
      useSubstituters(client, [daemon.url], [daemon.publicKey], {
        'hashed-mirrors': `${daemon.url}/tarballs`,
        sandbox: 'false',
      })
      // The address itself leads nowhere: only the mirror can have given it.
      const expression = `
      let src = import <nix/fetchurl.nix> { url = "http://127.0.0.1:1/gone.tar.gz"; sha256 = "${hex}"; };
      in derivation {
        name = "built-from-source"; system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/bin";
        args = [ "-c" "cat $src > $out" ]; inherit src;
      }`
      const [built = ''] = await client.words('nix-build', '--no-out-link', '-E', expression)
      t.same(readFileSync(client.physical(built)), source)
    },
  )
}
