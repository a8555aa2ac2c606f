import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { freePort, type Scope } from '../../test/helpers/scope.ts'

/** The yardstick for trees: a server that answers with the output of `nix-store --dump PATH`, as nix-serve does it. */
const PROGRAM = `
  const { spawn } = require('node:child_process')
  require('node:http').createServer((request, response) => {
    const dump = spawn('nix-store', ['--dump', decodeURIComponent(request.url.slice(1))], { stdio: ['ignore', 'pipe', 'inherit'] })
    dump.stdout.pipe(response)
    response.on('close', () => dump.kill())
  }).listen(Number(process.argv[1]), '127.0.0.1', () => console.log('ready'))`

/** Starts it; `urlOf` takes a path of this machine's file system. */
export async function startDumpServer(scope: Scope) {
  const port = await freePort()
  const child = spawn(process.execPath, ['-e', PROGRAM, String(port)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const ended = once(child, 'close')
  scope.teardown(async () => {
    child.kill()
    await ended
  })
  await once(child.stdout, 'data')
  return { urlOf: (file: string) => `http://127.0.0.1:${port}/${encodeURIComponent(file)}` }
}
