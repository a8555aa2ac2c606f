import { execFile } from 'node:child_process'
import { isIP } from 'node:net'

// A name to addresses, by the system's resolver (hosts file, nss-mdns, DNS), in a process of its own. Within this one a
// name server that does not answer holds one of the four threads that all file access shares, and even process.exit()
// waits for it: 10 s were measured.

/** After this a resolver will not answer: resolv.conf's defaults give up after 2 attempts of 5 s per server. */
const RESOLVE_LIMIT_MS = 15_000

/** Addresses taken of one name. */
const ADDRESSES_MAX = 4

const SCRIPT = `require('dns').lookup(process.argv[1], { all: true }, (error, found) =>
  process.stdout.write(JSON.stringify(error ? { problem: error.code } : { found })))`

/** What the script prints. */
interface Answer {
  readonly found?: readonly { readonly address: string }[]
  readonly problem?: string
}

/** Addresses of a name, at most 4, IPv4 and IPv6. Rejects with what the resolver says. Ends early when `signal` says so. */
export function resolveName(name: string, signal: AbortSignal): Promise<readonly string[]> {
  return new Promise((resolve, reject) => {
    const settle = (error: Error | null, output: string): void => {
      // Killed by the limit or the signal: what it wrote is no whole answer.
      if (error !== null || output === '') return reject(new Error('the resolver does not answer'))
      const { found = [], problem } = JSON.parse(output) as Answer
      const addresses = [...new Set(found.map(({ address }) => address))].filter(isIP)
      if (addresses.length === 0) return reject(new Error(problem ?? 'it has no address'))
      resolve(addresses.slice(0, ADDRESSES_MAX))
    }
    execFile(
      process.execPath,
      ['-e', SCRIPT, '--', name],
      {
        // The daemon's own flags and loaders are not the child's business.
        env: { ...process.env, NODE_OPTIONS: '' },
        timeout: RESOLVE_LIMIT_MS,
        killSignal: 'SIGKILL',
        signal,
      },
      settle,
    )
  })
}
