// The kernel's mount table, /proc/self/mountinfo (proc_pid_mountinfo(5)), one mount a line:
//
//   id parent major:minor root mountPoint options *optional "-" fsType source superOptions
//
// Blanks, tabs, line ends and backslashes in a text are written as \ and three octal digits.

/** One mount. */
export interface Mount {
  readonly id: number
  /** `major:minor`: equal for every mount of one file system. */
  readonly device: string
  /** What of the file system is mounted: '/' but for bind mounts and subvolumes. */
  readonly root: string
  readonly mountPoint: string
  readonly fsType: string
  /** The device, or what stands for it: `/dev/sdb1`, `tmpfs`. */
  readonly source: string
  readonly readOnly: boolean
}

/** Bytes of the largest table that is read: 100,000 mounts. More are no desktop and no server, but somebody's mischief. */
export const MOUNT_TABLE_MAX_BYTES = 32 * 1024 * 1024

const ESCAPE = /\\([0-7]{3})/g

/** A text of the table as it is: the kernel escapes bytes, and the table was read as UTF-8. */
const unescape = (text: string): string =>
  text.replace(ESCAPE, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)))

function parseLine(line: string): Mount | undefined {
  const fields = line.split(' ')
  const dash = fields.indexOf('-', 6)
  const [id = '', , device = '', root = '', mountPoint = '', options = ''] = fields
  if (dash < 0 || !/^\d+$/.test(id) || !/^\d+:\d+$/.test(device)) return undefined
  const [fsType = '', source = '', superOptions = ''] = fields.slice(dash + 1)
  const isReadOnly = [options, superOptions].some(text => text.split(',').includes('ro'))
  return {
    id: Number(id),
    device,
    root: unescape(root),
    mountPoint: unescape(mountPoint),
    fsType: unescape(fsType),
    source: unescape(source),
    readOnly: isReadOnly,
  }
}

/** The mounts of a table, in its order; lines that are none are passed over. */
export function parseMountTable(text: string): Mount[] {
  return text
    .split('\n')
    .map(parseLine)
    .filter(mount => mount !== undefined)
}

const isBelow = (path: string, folder: string): boolean =>
  path.startsWith(folder === '/' ? '/' : `${folder}/`)

/** A drive mounted at the folder itself counts too, but the root is nobody's drive. */
const isUnder = (path: string, folder: string): boolean =>
  path !== '/' && (isBelow(path, folder) || path === folder)

/** Whether one root of a file system holds the other. */
const holds = (root: string, other: string): boolean => root === other || isBelow(other, root)

/** File systems that are the kernel's own, or somebody's image of folders that are here already. */
const NEVER_DRIVES: ReadonlySet<string> = new Set([
  ...[
    'autofs',
    'bpf',
    'cgroup',
    'cgroup2',
    'configfs',
    'debugfs',
    'devpts',
    'devtmpfs',
    'efivarfs',
  ],
  ...['fuse.gvfsd-fuse', 'fuse.portal', 'fusectl', 'hugetlbfs', 'mqueue', 'nsfs', 'proc', 'pstore'],
  ...['ramfs', 'rpc_pipefs', 'securityfs', 'squashfs', 'sysfs', 'tracefs'],
])

/**
 * The mounts that may be drives: at or below one of the folders (as deep as one likes), and each file system once however
 * often it is mounted or bound: where most of it is seen, and of those the oldest mount. What is mounted over another at the
 * same place hides it.
 */
export function drivesOf(mounts: readonly Mount[], under: readonly string[]): Mount[] {
  const visible = new Map<string, Mount>()
  for (const mount of mounts) visible.set(mount.mountPoint, mount)
  const found = [...visible.values()].filter(
    ({ mountPoint, fsType }) =>
      !NEVER_DRIVES.has(fsType) && under.some(folder => isUnder(mountPoint, folder)),
  )
  found.sort((a, b) => a.root.length - b.root.length || a.id - b.id)
  const drives: Mount[] = []
  for (const mount of found) {
    const known = drives.some(
      ({ device, root }) => device === mount.device && holds(root, mount.root),
    )
    if (!known) drives.push(mount)
  }
  return drives
}
