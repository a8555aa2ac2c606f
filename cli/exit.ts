// How a command ends: its status, and errors as a person reads them.

/** Exit statuses, said in `narwharf --help` too. */
export const EXIT = {
  done: 0,
  failed: 1,
  usage: 2,
  /** What is missing is listed. */
  partly: 3,
} as const

export type ExitStatus = (typeof EXIT)[keyof typeof EXIT]

/** A failure of a command: what happened, and what to do about it. */
export class CommandError extends Error {
  override readonly name = 'CommandError'
  readonly hint: string
  readonly status: ExitStatus

  constructor(message: string, hint: string, status: ExitStatus = EXIT.failed, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause })
    this.hint = hint
    this.status = status
  }
}
