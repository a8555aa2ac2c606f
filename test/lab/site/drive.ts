import { spawnSync } from 'node:child_process'
import { closeSync, ftruncateSync, mkdirSync, openSync } from 'node:fs'
import { join } from 'node:path'
import { run } from '../../helpers/run.ts'
import type { Scope } from '../../helpers/scope.ts'
import type { SiteHost } from './site-host.ts'

// Drives of the lab: an image, a loop device, and a mount inside the mount namespace of one host's daemon, where that daemon sees
// it come and go as it would see a real one.

/** File systems a drive may have, and what makes and mounts them. */
const FILE_SYSTEMS = {
  ext4: { make: ['mkfs.ext4', '-q', '-F', '-L'], mount: ['mount', '-t', 'ext4'] },
  btrfs: { make: ['mkfs.btrfs', '-q', '-f', '-L'], mount: ['mount', '-t', 'btrfs'] },
  exfat: { make: ['mkfs.exfat', '-L'], mount: ['mount.exfat-fuse'] },
  ntfs: { make: ['mkntfs', '-q', '-F', '-f', '-L'], mount: ['mount.ntfs-3g'] },
} as const

export type FileSystem = keyof typeof FILE_SYSTEMS

const has = (command: string) =>
  spawnSync('sh', ['-c', `command -v ${command}`], { env: rootEnv() }).status === 0

function rootEnv(): NodeJS.ProcessEnv {
  return { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` }
}

/** Why drives of that file system cannot be made here, or false: for tap's `skip`. */
export function driveSkip(fileSystem: FileSystem = 'ext4'): false | string {
  const { make, mount } = FILE_SYSTEMS[fileSystem]
  const lacking = [make[0], mount[0], 'losetup', 'nsenter'].find(command => !has(command))
  return lacking !== undefined && `needs ${lacking}`
}

export interface LabDrive {
  readonly label: string
  /** Where every host that has it plugged sees it. */
  readonly mountPoint: string
  /** Mounts it for a host whose daemon runs. */
  plug(host: SiteHost, options?: { readonly readOnly?: boolean }): Promise<void>
  /** Unmounts it there, `lazy` without waiting for anybody (as `umount -l`). */
  unplug(host: SiteHost, options?: { readonly lazy?: boolean }): Promise<void>
  /** A shell script on the drive (its folder is `$1`), as the host that has it plugged sees it. */
  shell(host: SiteHost, script: string): Promise<string>
}

export interface LabDriveOptions {
  readonly label: string
  readonly fileSystem?: FileSystem
  readonly megabytes?: number
}

/** Below which directory hosts of the lab watch for drives. */
export const DRIVES_DIR = '/client/media'

const NEW_DRIVE_MEGABYTES = 64

/** Makes an empty drive in a directory; its loop device goes with the scope. */
export async function makeDrive(
  scope: Scope,
  dir: string,
  { label, fileSystem = 'ext4', megabytes = NEW_DRIVE_MEGABYTES }: LabDriveOptions,
): Promise<LabDrive> {
  const env = rootEnv()
  const image = join(dir, `${label}.img`)
  const file = openSync(image, 'w')
  ftruncateSync(file, megabytes * 1024 * 1024)
  closeSync(file)
  const { stdout } = await run('losetup', ['--find', '--show', image], { env })
  const device = stdout.trim()
  scope.teardown(() => run('losetup', ['-d', device], { env, accept: 'any' }))
  const { make, mount } = FILE_SYSTEMS[fileSystem]
  await run(make[0], [...make.slice(1), label, device], { env })
  const mountPoint = `${DRIVES_DIR}/${label}`

  const inside = (host: SiteHost, command: readonly string[], accept?: 'any') => {
    if (host.pid === undefined) throw new Error(`the daemon of ${host.name} is off`)
    return run('nsenter', ['-t', String(host.pid), '-m', '--root', ...command], {
      env,
      ...(accept !== undefined && { accept }),
    })
  }

  return {
    label,
    mountPoint,
    async plug(host, { readOnly = false } = {}) {
      mkdirSync(join(host.nix.dir, mountPoint.slice('/client/'.length)), { recursive: true })
      const options = readOnly ? ['-o', 'ro'] : []
      await inside(host, [...mount, ...options, device, mountPoint])
    },
    async unplug(host, { lazy = false } = {}) {
      await inside(host, ['umount', ...(lazy ? ['-l'] : []), mountPoint])
    },
    async shell(host, script) {
      return (await inside(host, ['sh', '-euc', script, 'sh', mountPoint])).stdout
    },
  }
}
