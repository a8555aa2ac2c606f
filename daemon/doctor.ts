import { access, constants, stat, statfs } from 'node:fs/promises'
import type { DoctorReply, Finding, HolderStatus } from '../protocol/api.ts'
import type { Config } from './config.ts'

/** What the daemon's own check looks at. */
export interface DoctorFacts {
  readonly config: Config
  readonly holders: readonly HolderStatus[]
  readonly openToLan: boolean
  readonly now: Date
}

/** Free space under which the state directory is about to make trouble, bytes: SQLite's WAL and a NAR need room. */
const LOW_DISK_BYTES = 1 << 30

/** The year of this narwharf: a clock before it is wrong, whatever else is unknown. */
const OLDEST_PLAUSIBLE = new Date('2026-01-01T00:00:00Z')

/** Others must not read a file that holds a secret. */
const OTHERS_BITS = 0o077

const ok = (name: string, what: string): Finding => ({ name, level: 'ok', what })

function checkClock(now: Date): Finding {
  if (now >= OLDEST_PLAUSIBLE) return ok('clock', `the clock says ${now.toISOString()}`)
  return {
    name: 'clock',
    level: 'warning',
    what: `the clock says ${now.toISOString()}, which is before this narwharf was made`,
    mend: 'date -s "YYYY-MM-DD HH:MM"   # or start your time service',
  }
}

function checkDrive({ id, title = id, up, problem }: HolderStatus): Finding {
  if (up) return ok('drive', `${title} can be read`)
  return {
    ...{ name: 'drive', level: 'warning' },
    what: `${title} cannot be read: ${problem ?? 'unknown reason'}`,
    mend: 'narwharf drives   # then unplug it and plug it again, or check it with fsck',
  }
}

function checkHolder(holder: HolderStatus, config: Config): Finding {
  if (holder.kind === 'drive') return checkDrive(holder)
  const name = holder.kind === 'nix-store' ? 'database-access' : 'cache-directory'
  if (holder.up) return ok(name, `${holder.id} can be read`)
  return {
    name,
    level: holder.kind === 'nix-store' ? 'error' : 'warning',
    what: `${holder.id} cannot be read: ${holder.problem ?? 'unknown reason'}`,
    mend:
      holder.kind === 'nix-store'
        ? `ls -l ${config.store.db}   # the daemon's user must read it and its folder; see docs/operations.md, "Reading the Nix database"`
        : `mkdir -p ${config.cache.dir}   # or set cache.dir to the folder you meant`,
  }
}

async function checkKey(file: string): Promise<Finding> {
  try {
    const { mode } = await stat(file)
    if ((mode & OTHERS_BITS) === 0)
      return ok('signing-key', 'only the daemon reads its signing key')
    return {
      name: 'signing-key',
      level: 'error',
      what: `others can read the signing key ${file}`,
      mend: `chmod 600 ${file}`,
    }
  } catch (error) {
    return {
      name: 'signing-key',
      level: 'error',
      what: `the signing key ${file} cannot be read: ${(error as Error).message}`,
      mend: 'restart the daemon: it makes a new key when none is there',
    }
  }
}

async function checkDisk(dir: string): Promise<Finding> {
  const { bavail, bsize } = await statfs(dir)
  const free = bavail * bsize
  const gib = (free / 2 ** 30).toFixed(1)
  if (free >= LOW_DISK_BYTES) return ok('disk', `${gib} GiB free for the state directory`)
  return {
    name: 'disk',
    level: 'warning',
    what: `only ${gib} GiB free where ${dir} lies`,
    mend: 'nix-collect-garbage -d   # or move stateDir to a larger disk',
  }
}

async function checkWritable(dir: string): Promise<Finding> {
  try {
    await access(dir, constants.R_OK | constants.W_OK | constants.X_OK)
    return ok('state-dir', `${dir} can be written`)
  } catch (error) {
    return {
      name: 'state-dir',
      level: 'error',
      what: `${dir} cannot be written: ${(error as Error).message}`,
      mend: `chown -R "$(id -un)" ${dir}`,
    }
  }
}

function checkSharing(facts: DoctorFacts): Finding {
  const { withLan } = facts.config.share
  if (!facts.openToLan) return ok('sharing', 'the port answers on this machine only')
  if (withLan !== 'all') return ok('sharing', `the network is offered: ${withLan} paths`)
  return {
    name: 'sharing',
    level: 'warning',
    what: 'the port is open to the network and share.withLan is "all": private paths can be fetched by anyone there',
    mend: 'set share.withLan to "signed" in the configuration',
  }
}

/** What the daemon can see of its own set-up, each fault with what mends it. */
export async function diagnose(facts: DoctorFacts): Promise<DoctorReply> {
  const { config } = facts
  const findings = await Promise.all([
    checkClock(facts.now),
    ...facts.holders.map(holder => checkHolder(holder, config)),
    checkWritable(config.stateDir),
    checkKey(config.trust.secretKeyFile),
    checkDisk(config.stateDir),
    checkSharing(facts),
  ])
  return { findings }
}
