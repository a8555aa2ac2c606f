import { spawn } from 'node:child_process'
import { once } from 'node:events'

/**
 * Tells systemd how the service stands (sd_notify(3)): nothing happens without NOTIFY_SOCKET. Node has no datagram Unix
 * sockets, so `systemd-notify` sends it; its unit therefore needs `NotifyAccess=all`, as the notice comes from a child.
 * Resolves to what went wrong, or undefined.
 */
export async function notifySystemd(
  env: NodeJS.ProcessEnv,
  ...state: readonly string[]
): Promise<string | undefined> {
  if (!env.NOTIFY_SOCKET) return undefined
  try {
    const child = spawn('systemd-notify', state, { env, stdio: 'ignore' })
    const [status] = (await once(child, 'close')) as [number | null]
    return status === 0 ? undefined : `systemd-notify ended with status ${status}`
  } catch (error) {
    return `systemd-notify cannot be run: ${(error as Error).message}`
  }
}
