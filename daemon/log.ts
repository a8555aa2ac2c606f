import pino, { type Logger } from 'pino'

/** Lines of one log entry for a person at a terminal: what happened, and of a failure where. */
function plainLine(text: string): string {
  const entry = JSON.parse(text) as {
    readonly level: number
    readonly msg?: string
    readonly err?: { readonly message?: string; readonly stack?: string }
  }
  const level = pino.levels.labels[entry.level] ?? 'info'
  const detail = entry.err === undefined ? '' : `: ${entry.err.stack ?? entry.err.message ?? ''}`
  return `${level === 'info' ? '' : `${level}: `}${entry.msg ?? ''}${detail}\n`
}

/**
 * The daemon's log on standard error: JSON lines whose `msg` is a sentence a person can read (journald and files keep
 * them), or just those sentences where a person is looking.
 */
export function createLog(level: string, terminal = process.stderr.isTTY): Logger {
  const options = { level, base: null }
  if (!terminal) return pino(options, pino.destination({ dest: 2, sync: true }))
  return pino(options, { write: text => void process.stderr.write(plainLine(text)) })
}
