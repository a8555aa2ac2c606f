import { spawnSync } from 'node:child_process'
import {
  closeSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'
import { hashPartOf, type HashPart } from '../../protocol/store-path.ts'
import { pathOf } from './nix-store.ts'

// What is done to a flat cache behind its holder's back.

/** A path's narinfo in a cache directory. */
export const narinfoOf = (dir: string, name: string) =>
  join(dir, `${hashPartOf(pathOf(name))}.narinfo`)

/** The NAR file that its narinfo names. */
export const narFileOf = (dir: string, name: string): string => {
  const url = /^URL: (.*)$/m.exec(readFileSync(narinfoOf(dir, name), 'utf8'))?.[1] ?? ''
  return join(dir, url)
}

/** Writes the narinfo anew with one line's value changed (in a new file, as any cache writer does). */
export function edit(dir: string, name: string, field: string, value: string): void {
  const file = narinfoOf(dir, name)
  const text = readFileSync(file, 'utf8').replace(
    new RegExp(`^${field}: .*$`, 'm'),
    `${field}: ${value}`,
  )
  writeFileSync(`${file}.new`, text)
  renameSync(`${file}.new`, file)
}

/** Changes one bit in the middle of a file. */
export function flip(file: string): void {
  const bytes = readFileSync(file)
  const at = Math.floor(bytes.length / 2)
  const fd = openSync(file, 'r+')
  writeSync(fd, Buffer.from([(bytes[at] ?? 0) ^ 1]), 0, 1, at)
  closeSync(fd)
}

/** Puts in, one by one, what must not be taken for a holding; gives the hash parts by what is wrong. */
export function putHostile(dir: string): Record<string, HashPart> {
  const good = readFileSync(narinfoOf(dir, 'text'), 'utf8')
  const parts: Record<string, HashPart> = {}
  let count = 0
  const place = (what: string, make: (file: string, storePath: string) => void) => {
    const storePath = pathOf(`hostile-${++count}`)
    parts[what] = hashPartOf(storePath)
    make(join(dir, `${hashPartOf(storePath)}.narinfo`), storePath)
  }
  const narinfo = (what: string, change: (text: string) => string | Buffer) =>
    place(what, (file, storePath) =>
      writeFileSync(file, change(good.replace(/^StorePath: .*$/m, `StorePath: ${storePath}`))),
    )
  const url = (what: string, value: string, make?: (file: string) => void) => {
    narinfo(what, text => text.replace(/^URL: .*$/m, `URL: ${value}`))
    make?.(join(dir, value))
  }

  place('an empty file', file => writeFileSync(file, ''))
  place('a page of HTML', file => writeFileSync(file, '<html>404</html>\n'))
  place('random bytes', file => writeFileSync(file, Buffer.alloc(500, 0xe7)))
  place('a file without end', file => {
    writeFileSync(file, good)
    truncateSync(file, 2 ** 32)
  })
  place('a folder', file => mkdirSync(file))
  place('a FIFO', file => spawnSync('mkfifo', [file]))
  place('a device', file => symlinkSync('/dev/zero', file))
  place('a link to nowhere', file => symlinkSync('absent', file))
  place('a link to itself', file => symlinkSync(file, file))
  place('a link out of the cache', file => {
    writeFileSync(`${dir}-outside.narinfo`, good)
    symlinkSync(`${dir}-outside.narinfo`, file)
  })
  place('of another path', file => writeFileSync(file, good))
  narinfo('of another store directory', text => text.replace('/nix/store', '/gnu/store'))
  narinfo('cut off', text => text.slice(0, -5))
  narinfo('size 0', text => text.replace(/^NarSize: .*$/m, 'NarSize: 0'))
  narinfo('an unknown compression', text =>
    text.replace(/^Compression: .*$/m, 'Compression: rot13'),
  )
  const nar = narFileOf(dir, 'text').slice(dir.length + 1)
  url('URL that climbs', '../../../../../../etc/passwd')
  url('URL that climbs inside', `nar/../${nar}`)
  url('absolute URL', '/etc/passwd')
  url('file URL', 'file:///etc/passwd')
  url('http URL', 'http://localhost/x.nar')
  url('NAR absent', 'nar/absent.nar')
  url('NAR is a folder', 'nar/folder.nar', file => mkdirSync(file))
  url('NAR is a FIFO', 'nar/fifo.nar', file => spawnSync('mkfifo', [file]))
  url('NAR is a device', 'nar/device.nar', file => symlinkSync('/dev/zero', file))
  url('NAR is a link out of the cache', 'nar/out.nar', file => symlinkSync('/etc/passwd', file))
  url('NAR lies in a folder linked out of the cache', 'etc/passwd', () =>
    symlinkSync('/etc', join(dir, 'etc')),
  )
  return parts
}
