import { writeFile } from 'node:fs/promises'
import type { HaveReply } from '../../protocol/api-wants.ts'
import { decodeHaveDigest } from '../../protocol/have-digest.ts'
import type { Command } from '../command.ts'
import { CommandError, EXIT } from '../exit.ts'
import { formatSize, plural, printable } from '../format.ts'

/** Writes a file of the user's, or to standard output for `-`. */
export async function writeOutput(
  file: string,
  bytes: Buffer,
  stdout: NodeJS.WritableStream,
): Promise<void> {
  if (file === '-') {
    stdout.write(bytes)
    return
  }
  try {
    await writeFile(file, bytes)
  } catch (error) {
    throw new CommandError(
      `${printable(file)} cannot be written: ${(error as Error).message}`,
      'name a file in a folder of yours',
      EXIT.failed,
      error,
    )
  }
}

/** `narwharf have`: what the site has, as a small file. */
export const have: Command = async ({ client, out, io, options }) => {
  const bytes = await (await client()).have({ drives: options.drives === true })
  const { site, createdAt, count, root, id, shipments } = decodeHaveDigest(bytes)
  const file = typeof options.output === 'string' ? options.output : undefined
  if (file !== undefined) await writeOutput(file, bytes, io.stdout)
  if (file === '-') return EXIT.done
  const reply: HaveReply = {
    ...{ site, createdAt, paths: count, bytes: bytes.length, root, id },
    shipments: shipments.map(one => ({ id: one.id, parts: one.parts })),
    ...(file !== undefined && { file }),
  }
  if (out.asJson) out.json(reply)
  else {
    const where = file === undefined ? '' : `, written to ${printable(file)}`
    out.print(
      `${printable(site)} has ${plural(count, 'path')}; the digest has ${formatSize(bytes.length)}${where}`,
    )
  }
  return EXIT.done
}
