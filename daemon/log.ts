import pino, { type Logger } from 'pino'

/** The daemon's log: JSON lines on standard error (journald keeps them), sentences that a person can read in `msg`. */
export function createLog(level: string): Logger {
  return pino({ level, base: null }, pino.destination({ dest: 2, sync: true }))
}
