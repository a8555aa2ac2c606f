import { CommandError, EXIT } from '../exit.ts'
import { notifySystemd } from '../notify.ts'
import type { Command, Context } from '../command.ts'

const ENDING_SIGNALS = ['SIGTERM', 'SIGINT', 'SIGHUP'] as const

/** Shell's convention for a process that a signal ended. */
const SIGNAL_STATUS = 128
const SIGINT_NUMBER = 2

/** Resolves at the first signal to end; the second one does not wait for a clean close. */
function untilSignal(): Promise<NodeJS.Signals> {
  return new Promise(resolve => {
    let seen = false
    const onSignal = (signal: NodeJS.Signals) => {
      if (seen) process.exit(SIGNAL_STATUS + SIGINT_NUMBER)
      seen = true
      resolve(signal)
    }
    for (const signal of ENDING_SIGNALS) process.on(signal, onSignal)
  })
}

async function loadConfigFor({ io, options }: Context) {
  const { loadConfig } = await import('../../daemon/config.ts')
  const embedded = options.defaults === true
  if (embedded && options.config !== undefined) {
    throw new CommandError(
      '--defaults and --config exclude one another',
      'give one of them',
      EXIT.usage,
    )
  }
  return loadConfig({
    env: io.env,
    ...(io.env.HOME === undefined ? {} : { home: io.env.HOME }),
    file: options.config,
    stateDir: options.stateDir,
    embedded,
  })
}

/** What is wrong when the daemon cannot listen or write, in words of what the user can do. */
function startError(error: unknown): unknown {
  const { code, address, port, path, message } = error as NodeJS.ErrnoException & {
    readonly address?: string
    readonly port?: number
  }
  const failed = (what: string, hint: string) => new CommandError(what, hint, EXIT.failed, error)
  if (code === 'EADDRINUSE' && port !== undefined) {
    return failed(
      `port ${port} of ${address} is taken`,
      'another daemon may be running: narwharf status; or set http.port to a free one',
    )
  }
  if (code === 'EADDRNOTAVAIL') {
    return failed(`this machine has no address ${address}`, 'set http.host to one it has')
  }
  if (code === 'EACCES' || code === 'EPERM' || code === 'EROFS') {
    return failed(
      `may not write ${path ?? address ?? message} (${code})`,
      'run it as the user that owns the state directory, or choose one with --state-dir',
    )
  }
  return error
}

/** `narwharf daemon`: serves until it is told to end. */
export const daemon: Command = async context => {
  const { io, out, options } = context
  const config = await loadConfigFor(context)
  const { runDaemon } = await import('../../daemon/main.ts')
  const ending = untilSignal()
  let running
  try {
    running = await runDaemon(config)
  } catch (error) {
    throw startError(error)
  }
  const { url, publicKey, nixConfLines } = running
  const dashboard = `${url}/`
  if (out.asJson) {
    // One line, so that a script can read it while the daemon goes on.
    io.stdout.write(`${JSON.stringify({ url, dashboard, publicKey, nixConf: nixConfLines })}\n`)
  } else if (options.quiet !== true) {
    out.print(
      `narwharf serves at ${url}`,
      `dashboard: ${dashboard}`,
      'lines for nix.conf:',
      ...nixConfLines.map(line => `  ${line}`),
    )
  }
  const unheard = await notifySystemd(io.env, '--ready')
  if (unheard !== undefined) {
    io.stderr.write(`narwharf: systemd was not told that it is ready: ${unheard}\n`)
  }
  await ending
  await notifySystemd(io.env, 'STOPPING=1')
  await running.close()
  return EXIT.done
}
