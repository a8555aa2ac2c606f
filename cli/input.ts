import { CommandError, EXIT } from './exit.ts'
import type { Io, Output } from './output.ts'

/** Longest text that a command reads: a key or code with remarks. */
const INPUT_LIMIT_CHARACTERS = 65_536

/** Reads standard input to its end; a person at a terminal is told what to type. */
export async function readInput(
  { stdin }: Io,
  out: Output,
  prompt: string,
  limit = INPUT_LIMIT_CHARACTERS,
): Promise<string> {
  let text = ''
  if (stdin !== undefined) {
    if (stdin.isTTY === true) out.note(prompt)
    stdin.setEncoding('utf8')
    for await (const chunk of stdin as AsyncIterable<string>) {
      text += chunk
      if (text.length > limit) {
        throw new CommandError('the input is too long', 'give what was asked for alone', EXIT.usage)
      }
    }
  }
  if (text.trim() !== '') return text
  throw new CommandError('nothing was given', prompt.replace(/:$/, ''), EXIT.usage)
}
