import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { freePort, tempDir, type Scope } from '../../test/helpers/scope.ts'

/** A yardstick: nginx serving ready files, as fast as it can. */
export interface Nginx {
  readonly url: string
  /** Process ids of master and workers. */
  pids(): number[]
}

/**
 * Starts nginx over a directory: two workers, sendfile, no log. No open_file_cache: near the limit of file descriptors it
 * stalls at a few requests a second, and then anything beats it.
 */
export async function startNginx(scope: Scope, root: string, host = '127.0.0.1'): Promise<Nginx> {
  const dir = tempDir(scope, 'nginx')
  const port = await freePort()
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
  mkdirSync(join(dir, 'temp'))
  writeFileSync(
    join(dir, 'nginx.conf'),
    `user root; daemon off; worker_processes 2; pid ${dir}/pid; error_log ${dir}/error.log;
     events { worker_connections 1024; }
     http {
       access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000; default_type application/octet-stream;
       ${temporary.map(name => `${name}_temp_path ${dir}/temp/${name};`).join('\n')}
       server { listen ${host}:${port}; root ${root}; }
     }`,
  )
  const child = spawn('nginx', ['-e', `${dir}/error.log`, '-c', join(dir, 'nginx.conf')], {
    stdio: ['ignore', 'inherit', 'inherit'],
  })
  const ended = once(child, 'close')
  scope.teardown(async () => {
    child.kill('SIGTERM')
    await ended
  })
  await accepts(host, port)
  return { url: `http://${host}:${port}`, pids: () => [child.pid ?? 0] }
}

/** How often a server that starts is knocked at: it has no other way to say that it listens. */
const KNOCK_MS = 20
const KNOCKS = 500

async function accepts(host: string, port: number): Promise<void> {
  for (let knock = 0; knock < KNOCKS; knock++) {
    const open = await new Promise<boolean>(resolve => {
      const socket = connect(port, host)
      socket.once('connect', () => resolve(true)).once('error', () => resolve(false))
      socket.once('connect', () => socket.destroy())
    })
    if (open) return
    await new Promise(resolve => setTimeout(resolve, KNOCK_MS))
  }
  throw new Error(`nothing listens at ${host}:${port}`)
}
