import { accessSync, constants, existsSync, statSync } from 'node:fs'
import { statfs } from 'node:fs/promises'
import { dirname } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Finding } from '../../protocol/api.ts'
import { formatSize, plural } from '../format.ts'
import { plainUrl, type RememberedAnswers } from './narinfo-cache.ts'
import type { NixSettings } from './nix-config.ts'

// Checks of the client's side, each facts in, findings out.

export const ok = (name: string, what: string): Finding => ({ name, level: 'ok', what })

export const fault = (
  name: string,
  level: 'warning' | 'error',
  what: string,
  mend: string,
): Finding => ({ name, level, what, mend })

/** No narwharf is older: a clock before it is wrong, whatever else is unknown. */
const OLDEST_PLAUSIBLE = new Date('2024-01-01T00:00:00Z')

/** When this program's own file was written; a clock before that runs behind. */
export function programTime(): Date {
  return statSync(fileURLToPath(import.meta.url)).mtime
}

/** Whether the clock can be right: signatures do not need it, but cache lifetimes, logs and time stamps do. */
export function checkClock(now: Date, program: Date): Finding {
  const says = `the clock says ${now.toISOString()}`
  const mend = 'date -s "YYYY-MM-DD HH:MM"   # or start your time service'
  if (now < OLDEST_PLAUSIBLE) return fault('clock', 'warning', `${says}, years ago`, mend)
  if (now < program) {
    return fault('clock', 'warning', `${says}, before this program was installed`, mend)
  }
  return ok('clock', says)
}

/** Free space under which a daemon is about to make trouble, bytes. */
const LOW_DISK_BYTES = 1 << 30

const nearestExisting = (path: string): string =>
  existsSync(path) || dirname(path) === path ? path : nearestExisting(dirname(path))

/** Whether a daemon of this user could keep its state there. */
export function checkStateDir(stateDir: string): Finding {
  const place = nearestExisting(stateDir)
  if (!statSync(place).isDirectory()) {
    const mend = `rm ${place}   # or choose another place with --state-dir DIR`
    return fault('state-dir', 'warning', `${place} is not a folder`, mend)
  }
  try {
    accessSync(place, constants.R_OK | constants.W_OK | constants.X_OK)
    const what = place === stateDir ? 'can be written' : 'can be made'
    return ok('state-dir', `${stateDir} ${what}`)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    return fault(
      'state-dir',
      'warning',
      `this user may not write ${stateDir} (${code})`,
      'run the daemon as root or its own user, or with --state-dir DIR',
    )
  }
}

/** Whether there is room where the state lies. */
export async function checkDisk(stateDir: string): Promise<Finding> {
  const place = nearestExisting(stateDir)
  const { bavail, bsize } = await statfs(place)
  const free = bavail * bsize
  if (free >= LOW_DISK_BYTES) return ok('disk', `${formatSize(free)} free at ${place}`)
  return fault(
    'disk',
    'warning',
    `only ${formatSize(free)} free at ${place}`,
    'nix-collect-garbage -d   # or move stateDir to a larger disk',
  )
}

/** What this host is to Nix. */
export interface HostFacts {
  /** Every spelling under which Nix on this machine may know it, plain. */
  readonly urls: ReadonlySet<string>
  /** `name:base64`; undefined while no key is known. */
  readonly publicKey: string | undefined
  /** Where lines for the whole machine go. */
  readonly configFile: string
  /** NixOS writes that file itself. */
  readonly declared: boolean
}

/** Whether Nix uses this host, trusts its key, and asks again for what was not there. */
export function checkNixSettings(settings: NixSettings | undefined, host: HostFacts): Finding[] {
  if (settings === undefined) {
    return [ok('nix', 'there is no Nix on this machine that could use the daemon')]
  }
  const add = (line: string, option: string): string =>
    host.declared
      ? `in the NixOS configuration: nix.settings.${option}`
      : `echo '${line}' | sudo tee -a ${host.configFile}`
  const findings: Finding[] = []
  if (!settings.substitute) {
    const mend = add('substitute = true', 'substitute = true;')
    findings.push(fault('substitute', 'error', 'Nix is told to build everything itself', mend))
  }
  const [url = ''] = host.urls
  const used = settings.substituters.some(one => host.urls.has(plainUrl(one)))
  if (used) {
    findings.push(ok('substituter', `Nix uses this host (${settings.source})`))
  } else {
    const mend = add(`extra-substituters = ${url}`, `extra-substituters = [ "${url}" ];`)
    findings.push(fault('substituter', 'warning', `Nix does not use this host (${url})`, mend))
  }
  if (host.publicKey !== undefined) findings.push(checkKey(settings, host.publicKey, used, add))
  if (settings.negativeTtlSeconds === 0) {
    findings.push(ok('negative-ttl', 'Nix asks again for a path that was not there'))
  } else {
    findings.push(
      fault(
        'negative-ttl',
        'warning',
        `Nix believes for ${settings.negativeTtlSeconds} s that a path is nowhere, even if it came meanwhile`,
        add('narinfo-cache-negative-ttl = 0', 'narinfo-cache-negative-ttl = 0;'),
      ),
    )
  }
  return findings
}

function checkKey(
  settings: NixSettings,
  publicKey: string,
  used: boolean,
  add: (line: string, option: string) => string,
): Finding {
  if (settings.trustedPublicKeys.includes(publicKey)) {
    return ok('trusted-key', 'Nix trusts this host’s key')
  }
  const name = publicKey.slice(0, publicKey.indexOf(':') + 1)
  const other = settings.trustedPublicKeys.some(key => key.startsWith(name))
  const what = other
    ? `Nix trusts another key of the name ${name.slice(0, -1)}: the host’s key was made anew`
    : 'Nix does not trust this host’s key: it would refuse what the host offers'
  const line = `extra-trusted-public-keys = ${publicKey}`
  const option = `extra-trusted-public-keys = [ "${publicKey}" ];`
  return fault('trusted-key', used ? 'error' : 'warning', what, add(line, option))
}

/** Whether Nix remembers answers of this host that are no longer true; `gone` are hash parts that nobody holds now. */
export function checkRemembered(answers: RememberedAnswers, gone: ReadonlySet<string>): Finding {
  const name = 'narinfo-cache'
  const { file } = answers
  if (answers.problem !== undefined) {
    return fault(name, 'warning', `${file} cannot be read: ${answers.problem}`, `ls -l ${file}*`)
  }
  const stale = answers.present.filter(({ hashPart }) => gone.has(hashPart))
  const parts = [
    ...(answers.absent > 0 ? [`${plural(answers.absent, 'path')} as absent`] : []),
    ...(stale.length > 0 ? [`${plural(stale.length, 'path')} that nobody holds any more`] : []),
  ]
  if (parts.length === 0) return ok(name, `${file} remembers nothing stale of this host`)
  return fault(name, 'warning', `${file} remembers ${parts.join(' and ')}`, `rm -f ${file}*`)
}
