import { readFile } from 'node:fs/promises'
import type { Finding, StatusReply } from '../../protocol/api.ts'
import { formatPublicKey, parseSecretKey, publicKeyOf } from '../../protocol/signature.ts'
import { NotRunningError, type Client } from '../client.ts'
import type { Command, Context } from '../command.ts'
import {
  checkClock,
  checkDisk,
  checkNixSettings,
  checkRemembered,
  checkStateDir,
  fault,
  ok,
  programTime,
} from '../doctor/checks.ts'
import { plainUrl, rememberedAnswers } from '../doctor/narinfo-cache.ts'
import { readNixSettings, systemConfigFile } from '../doctor/nix-config.ts'
import { describeError } from '../output.ts'
import { CommandError, EXIT } from '../exit.ts'
import { plural, printable } from '../format.ts'
import { clientUrl, type Settings } from '../settings.ts'

/** What the daemon says of itself, or a finding instead of it. */
interface DaemonView {
  readonly status?: StatusReply
  readonly findings: readonly Finding[]
}

async function askDaemon(client: Client, startCommand: string): Promise<DaemonView> {
  try {
    const [status, { findings }] = [await client.status(), await client.doctor()]
    const answers = ok('daemon', `narwharf ${status.version} answers, pid ${status.pid}`)
    return { status, findings: [answers, ...findings] }
  } catch (error) {
    if (!(error instanceof CommandError)) throw error
    const mend = error instanceof NotRunningError ? startCommand : error.hint
    return { findings: [fault('daemon', 'error', error.message, mend)] }
  }
}

/** The key a stopped daemon would sign with, where this user may read it. */
async function keyFromFile(file: string): Promise<string | undefined> {
  try {
    return formatPublicKey(publicKeyOf(parseSecretKey(await readFile(file, 'utf8'))))
  } catch {
    return undefined
  }
}

/** Spellings of this host's address: people write localhost for 127.0.0.1, and Nix takes them for two caches. */
function spellings(url: string): Set<string> {
  const plain = plainUrl(url)
  const { port } = new URL(plain)
  return new Set([plain, `http://127.0.0.1:${port}`, `http://localhost:${port}`])
}

/** Of what Nix believes to be here, the hash parts that nobody holds. */
async function goneOf(client: Client, hashParts: readonly string[]): Promise<Set<string>> {
  if (hashParts.length === 0) return new Set()
  const { results } = await client.whoHas(hashParts)
  return new Set(
    results
      .filter(({ matches, problem }) => problem === undefined && matches.length === 0)
      .map(({ query }) => query),
  )
}

async function checkClient(
  { io }: Context,
  settings: Settings,
  client: Client,
  view: DaemonView,
): Promise<Finding[]> {
  const { config } = settings
  const { env } = io
  const url = view.status?.http.url ?? clientUrl(config)
  const urls = spellings(url)
  const publicKey = view.status?.publicKey ?? (await keyFromFile(config.trust.secretKeyFile))
  const { file: configFile, declared } = await systemConfigFile(env)
  const nix = await readNixSettings(env)
  const findings = checkNixSettings(nix, { urls, publicKey, configFile, declared })
  const answers = await rememberedAnswers(env, urls, new Date(), nix?.negativeTtlSeconds ?? 0)
  for (const one of answers) {
    const hashParts = one.present.map(({ hashPart }) => hashPart)
    const gone = view.status ? await goneOf(client, hashParts) : new Set<string>()
    findings.push(checkRemembered(one, gone))
  }
  findings.push(checkClock(new Date(), programTime()))
  if (view.status === undefined) {
    findings.push(checkStateDir(config.stateDir), await checkDisk(config.stateDir))
  }
  return findings
}

const GRAVITY = { error: 0, warning: 1, ok: 2 } as const

/** Both sides look at the clock: of findings with one name that are not the daemon's holders, the graver stands. */
function merge(daemon: readonly Finding[], client: readonly Finding[]): Finding[] {
  const doubled = (one: Finding) =>
    daemon.some(({ name, level }) => name === one.name && level !== 'ok')
  const kept = client.filter(one => one.name !== 'clock' || !doubled(one))
  const clockFault = kept.some(({ name, level }) => name === 'clock' && level !== 'ok')
  const known = daemon.some(({ name }) => name === 'clock')
  const all = [
    ...daemon.filter(({ name }) => name !== 'clock' || !clockFault),
    ...kept.filter(({ name, level }) => name !== 'clock' || level !== 'ok' || !known),
  ]
  return all.sort((a, b) => GRAVITY[a.level] - GRAVITY[b.level])
}

function print({ out, options }: Context, findings: readonly Finding[]): void {
  const { colors } = out
  const paint = { ok: colors.green, warning: colors.yellow, error: colors.red }
  const shown = findings.filter(({ level }) => options.all === true || level !== 'ok')
  for (const { name, level, what, mend } of shown) {
    out.print(`${paint[level](level.padEnd(7))}  ${printable(name)}: ${printable(what)}`)
    if (mend !== undefined) out.print(`         ${printable(mend)}`)
  }
  const count = (level: Finding['level']) => findings.filter(one => one.level === level).length
  out.print(
    `${plural(count('error'), 'error')}, ${plural(count('warning'), 'warning')}, ${count('ok')} ok`,
  )
}

/** `narwharf doctor`: the daemon's findings and the client's own. */
export const doctor: Command = async context => {
  const { out } = context
  let findings: Finding[]
  try {
    const settings = await context.settings()
    const client = await context.client()
    const view = await askDaemon(client, settings.startCommand)
    findings = merge(view.findings, await checkClient(context, settings, client, view))
  } catch (error) {
    // A configuration that cannot be read is the fault to report, not a reason to report nothing.
    const { code, message, hint } = error as { code?: string; message: string; hint?: string }
    if (code !== 'CONFIG_INVALID') throw error
    findings = [fault('configuration', 'error', message, hint ?? describeError(error).line)]
  }
  if (out.asJson) out.json({ findings })
  else print(context, findings)
  return findings.some(({ level }) => level === 'error') ? EXIT.failed : EXIT.done
}
