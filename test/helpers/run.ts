import { spawn, type ChildProcess } from 'node:child_process'

/** What a finished command left behind. */
export interface Outcome {
  readonly status: number
  readonly stdout: string
  readonly stderr: string
}

export interface RunOptions {
  readonly env?: NodeJS.ProcessEnv
  readonly cwd?: string
  readonly input?: string | Buffer
  /** Sees the process as soon as it runs, to read its output or kill it. */
  readonly onStart?: (child: ChildProcess) => void
  /** A status that is no failure; default only 0. `'any'` never throws. */
  readonly accept?: 'any'
  /** After this the process is killed and the run fails. */
  readonly timeoutMs?: number
}

/** The longest a command of a test may take: a hang becomes a failure with its output, not a silent time-out. */
const DEFAULT_TIMEOUT_MS = 100_000

/** Runs a command to its end. Rejects with its output when it fails or hangs. */
export function run(
  command: string,
  args: readonly string[],
  options: RunOptions = {},
): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, [...args], {
      stdio: ['pipe', 'pipe', 'pipe'],
      ...(options.env && { env: options.env }),
      ...(options.cwd !== undefined && { cwd: options.cwd }),
    })
    const timeoutMs = options.timeoutMs ?? DEFAULT_TIMEOUT_MS
    let late = false
    const timer = setTimeout(() => {
      late = true
      child.kill('SIGKILL')
    }, timeoutMs)
    let stdout = ''
    let stderr = ''
    child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text))
    child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text))
    child.stdin.on('error', () => {}) // a command need not read what it is given
    child.stdin.end(options.input)
    child.on('error', error => {
      clearTimeout(timer)
      reject(error)
    })
    child.on('close', (code, signal) => {
      clearTimeout(timer)
      const status = code ?? 128
      if (!late && (options.accept === 'any' || status === 0)) {
        resolve({ status, stdout, stderr })
        return
      }
      const how = late ? `did not end in ${timeoutMs} ms` : `failed (${signal ?? status})`
      reject(
        new Error(
          `${command} ${args.join(' ')} ${how}\n${stdout.slice(-2000)}\n${stderr.slice(-4000)}`,
        ),
      )
    })
    options.onStart?.(child)
  })
}
