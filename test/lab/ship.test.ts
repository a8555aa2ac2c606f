import { spawn } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { ShipResult, VerifyResult } from '../../protocol/api-shipments.ts'
import { parseShipment } from '../../protocol/shipment.ts'
import { makeClosure } from '../helpers/closure.ts'
import {
  daemonSkip,
  NODE_FLAGS,
  PROGRAM,
  startDaemon,
  type RunningDaemon,
} from '../helpers/daemon.ts'
import { differences, storeProblems, useSubstituters } from '../helpers/nix-client.ts'
import { labSkip, makeNixHost, nixVersions } from '../helpers/nix-host.ts'
import { run, type Outcome } from '../helpers/run.ts'
import { tempDir } from '../helpers/scope.ts'

// A depot packs its live store onto a drive, and a Nix that never heard of narwharf installs from it.

const LAB_LIMIT_MS = 300_000

const narwharf = (daemon: RunningDaemon, ...args: string[]): Promise<Outcome> =>
  run(process.execPath, [...NODE_FLAGS, PROGRAM, ...args, '--config', daemon.configFile], {
    accept: 'any',
  })

t.setTimeout(LAB_LIMIT_MS)
t.test('a drive from the depot', { skip: labSkip || daemonSkip }, async t => {
  const closure = await makeClosure(t)
  const { host, top, paths, upstreamKey } = closure
  const depot = await startDaemon(t, {
    hostName: 'depot',
    store: { enable: true, root: host.root },
    trust: { publicKeys: [upstreamKey] },
  })
  const shared = tempDir(t, 'drive')
  const drive = join(shared, 'drive')

  await t.test('is planned without writing', async t => {
    const { status, stdout, stderr } = await narwharf(depot, 'ship', drive, top, '--dry-run')
    t.equal(status, 0, stderr)
    t.match(stdout, /DRIVE +PATHS/)
    t.notOk(existsSync(drive))
  })

  await t.test('is packed', async t => {
    const { status, stdout, stderr } = await narwharf(depot, 'ship', drive, top, '--json')
    t.equal(status, 0, stderr)
    const result = JSON.parse(stdout) as ShipResult
    t.match(result, { parts: [{ paths: paths.length, written: paths.length }], missingPaths: 0 })
    const { manifest } = parseShipment(readFileSync(join(drive, 'narwharf/shipment.json')))
    t.match(manifest, { depot: 'depot', paths: paths.length, roots: [top] })
  })

  for (const version of nixVersions().filter(({ name }) => !/buster|bullseye/.test(name))) {
    await t.test(`Nix ${version.version} installs from it with file://`, async t => {
      const client = makeNixHost(t, { version, extra: shared })
      useSubstituters(client, ['file:///extra/drive'], [depot.publicKey])
      await client.run('nix-store', ['-r', top])
      t.same((await client.words('nix-store', '-qR', top)).sort(), paths, 'every path is there')
      t.same(await storeProblems(client), [])
      t.same(await differences(host, client, paths), [], 'byte for byte')
    })
  }

  await t.test('is read back', async t => {
    const { status, stdout, stderr } = await narwharf(depot, 'verify', drive, '--json')
    t.equal(status, 0, stderr)
    t.match(JSON.parse(stdout) as VerifyResult, {
      targets: [{ dir: drive, paths: paths.length, good: paths.length, damagedPaths: 0 }],
    })
  })

  await t.test('is repaired where it is damaged', async t => {
    const narinfo = readFileSync(join(drive, `${closure.big.slice(11, 43)}.narinfo`), 'latin1')
    const file = join(drive, /^URL: (.*)$/m.exec(narinfo)?.[1] ?? '')
    const bytes = readFileSync(file)
    bytes.writeUInt8(bytes.readUInt8(bytes.length >> 1) ^ 1, bytes.length >> 1)
    writeFileSync(file, bytes)
    const found = await narwharf(depot, 'verify', drive)
    t.equal(found.status, 3, 'damage is found')
    t.match(found.stderr, new RegExp(closure.big))
    const mended = await narwharf(depot, 'verify', drive, '--repair')
    t.equal(mended.status, 0, mended.stderr)
    t.match(mended.stdout, /1 path damaged, 1 repaired/)
    t.equal((await narwharf(depot, 'verify', drive)).status, 0, 'it is right again')
  })

  await t.test('goes on after a kill', async t => {
    const other = join(shared, 'killed')
    mkdirSync(other)
    const child = spawn(
      process.execPath,
      [...NODE_FLAGS, PROGRAM, 'ship', other, top, '--config', depot.configFile],
      { stdio: 'ignore' },
    )
    t.teardown(() => child.kill('SIGKILL'))
    while (!existsSync(join(other, 'nix-cache-info'))) await new Promise(setImmediate)
    await depot.kill()
    const again = await depot.restart()
    const { status, stdout, stderr } = await narwharf(again, 'ship', other, top, '--json')
    t.equal(status, 0, stderr)
    t.match(JSON.parse(stdout) as ShipResult, { parts: [{ paths: paths.length }] })
    t.equal((await narwharf(again, 'verify', other)).status, 0)
    await again.stop()
  })
})
