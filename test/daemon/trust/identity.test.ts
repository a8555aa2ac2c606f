import { spawnSync } from 'node:child_process'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { loadIdentity, publicKeyFileOf } from '../../../daemon/trust/identity.ts'
import { isNarwharfError } from '../../../protocol/errors.ts'
import { parsePublicKey, parseSecretKey } from '../../../protocol/signature.ts'
import { tempDir } from '../../helpers/scope.ts'

const noNix = spawnSync('nix-store', ['--version']).status !== 0 && 'needs Nix'
const modeOf = (file: string) => statSync(file).mode & 0o777

t.test('a key is made at the first start', async t => {
  const dir = join(tempDir(t, 'identity'), 'state')
  const file = join(dir, 'signing-key.secret')
  const before = process.umask(0)
  t.teardown(() => process.umask(before))
  const { publicKey, problems } = await loadIdentity(file, 'lab-3')
  t.same(problems, [])
  t.equal(modeOf(file), 0o600)
  t.equal(modeOf(publicKeyFileOf(file)), 0o644)
  t.equal(readFileSync(join(dir, 'signing-key.public'), 'utf8'), publicKey)
  t.equal(parsePublicKey(publicKey).name, 'lab-3-1')
  t.same(readdirSync(dir).sort(), ['signing-key.public', 'signing-key.secret'], 'nothing half-made')
  const again = await loadIdentity(file, 'renamed')
  t.equal(again.publicKey, publicKey, 'and kept, whatever the host is called')

  await t.test('two that start at once agree', async t => {
    const shared = join(tempDir(t, 'identity'), 'secret-key')
    const keys = await Promise.all(Array.from({ length: 8 }, () => loadIdentity(shared, 'x')))
    t.equal(new Set(keys.map(key => key.publicKey)).size, 1)
    t.equal(readFileSync(publicKeyFileOf(shared), 'utf8'), keys[0]?.publicKey)
  })

  await t.test('nix understands it', { skip: noNix }, t => {
    const { status, stdout, stderr } = spawnSync(
      'nix',
      ['--extra-experimental-features', 'nix-command', 'key', 'convert-secret-to-public'],
      { input: readFileSync(file), encoding: 'utf8' },
    )
    t.equal(status, 0, stderr)
    t.equal(stdout.trim(), publicKey)
    t.end()
  })
})

t.test('a key that nix-store made', { skip: noNix }, async t => {
  const dir = tempDir(t, 'identity')
  const [secretFile, publicFile] = [join(dir, 'sk'), join(dir, 'pk')]
  spawnSync('nix-store', ['--generate-binary-cache-key', 'mine-7', secretFile, publicFile])
  chmodSync(secretFile, 0o600)
  const { publicKey } = await loadIdentity(secretFile, 'lab-3')
  t.equal(publicKey, readFileSync(publicFile, 'utf8').trim())
  t.same(readdirSync(dir).sort(), ['pk', 'sk'], "no file is made beside the operator's")
})

t.test('modes', async t => {
  for (const mode of [0o644, 0o640, 0o666, 0o604]) {
    const file = join(tempDir(t, 'identity'), 'signing-key.secret')
    await loadIdentity(file, 'x')
    chmodSync(file, mode)
    const { problems } = await loadIdentity(file, 'x')
    t.equal(modeOf(file), 0o600, 'mended')
    t.match(problems, [{ what: /could be read by others/, hint: /new key/ }])
    t.same((await loadIdentity(file, 'x')).problems, [], 'said once')
  }
  const readOnly = join(tempDir(t, 'identity'), 'signing-key.secret')
  await loadIdentity(readOnly, 'x')
  chmodSync(readOnly, 0o400)
  t.same((await loadIdentity(readOnly, 'x')).problems, [])
  t.equal(modeOf(readOnly), 0o400, 'a stricter mode stays')
})

t.test('a stale public file is put right', async t => {
  const file = join(tempDir(t, 'identity'), 'signing-key.secret')
  const { publicKey } = await loadIdentity(file, 'x')
  writeFileSync(publicKeyFileOf(file), 'other:key')
  await loadIdentity(file, 'x')
  t.equal(readFileSync(publicKeyFileOf(file), 'utf8'), publicKey)
})

t.test('what is no key is refused and left alone', async t => {
  const cases: Readonly<Record<string, string>> = {
    empty: '',
    garbage: 'not a key',
    'a public key': 'x:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=',
    'too large': 'x'.repeat(10_000),
    'halves that do not belong together': `x:${Buffer.alloc(64, 7).toString('base64')}`,
  }
  for (const [name, text] of Object.entries(cases)) {
    const file = join(tempDir(t, 'identity'), 'signing-key.secret')
    writeFileSync(file, text, { mode: 0o600 })
    const error: unknown = await loadIdentity(file, 'x').catch((problem: unknown) => problem)
    t.ok(isNarwharfError(error, 'KEY_INVALID'), name)
    t.match(String(error), file, 'the file is named')
    t.equal(readFileSync(file, 'utf8'), text)
    t.notOk(existsSync(publicKeyFileOf(file)))
  }
  const directory = join(tempDir(t, 'identity'), 'signing-key.secret')
  mkdirSync(directory)
  await t.rejects(loadIdentity(directory, 'x'), { code: 'KEY_INVALID' })
  t.throws(() => parseSecretKey(''))
})
