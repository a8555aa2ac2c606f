import { readFile } from 'node:fs/promises'
import type { NixConfReply } from '../../protocol/api.ts'
import { nixConfLines } from '../../protocol/nix-conf.ts'
import { formatPublicKey, parseSecretKey, publicKeyOf } from '../../protocol/signature.ts'
import { NotRunningError } from '../client.ts'
import { CommandError, EXIT } from '../exit.ts'
import type { Command } from '../command.ts'
import { clientUrl, type Settings } from '../settings.ts'

/** The lines without a daemon: its address from the configuration, its key from the key file. */
async function fromKeyFile({ config, startCommand }: Settings): Promise<NixConfReply> {
  const file = config.trust.secretKeyFile
  let text
  try {
    text = await readFile(file, 'utf8')
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT') {
      throw new CommandError(
        `the daemon is not running and this host has no key yet: ${file} does not exist`,
        `start it once, it makes the key: ${startCommand}`,
      )
    }
    throw new CommandError(
      `the daemon is not running and its key ${file} cannot be read (${code})`,
      `start it with: ${startCommand}, or run this command as root`,
      EXIT.failed,
      error,
    )
  }
  const publicKey = formatPublicKey(publicKeyOf(parseSecretKey(text)))
  return { lines: nixConfLines({ url: clientUrl(config), publicKey }) }
}

/** `narwharf nix-conf`: lines for nix.conf. */
export const nixConf: Command = async ({ client, settings, out }) => {
  let reply
  try {
    reply = await (await client()).nixConf()
  } catch (error) {
    if (!(error instanceof NotRunningError)) throw error
    reply = await fromKeyFile(await settings())
    out.note('narwharf: the daemon is not running; these lines are from its key file')
  }
  if (out.asJson) out.json(reply)
  else out.print(...reply.lines)
  return EXIT.done
}
