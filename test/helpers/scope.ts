import { mkdtempSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { spawnSync } from 'node:child_process'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** Whatever undoes things at its end: a tap test, or {@link createScope} in a benchmark. */
export interface Scope {
  teardown(undo: () => unknown): void
}

/** A scope for programs without tap: `close` undoes everything, last things first. */
export function createScope(): Scope & { close(): Promise<void> } {
  const undos: (() => unknown)[] = []
  return {
    teardown: undo => void undos.push(undo),
    async close() {
      for (const undo of undos.splice(0).reverse()) await undo()
    },
  }
}

/** Removes a tree in which Nix has taken the write permissions away (root needs none). */
export async function removeTree(directory: string): Promise<void> {
  if (process.getuid?.() !== 0) spawnSync('chmod', ['-R', 'u+w', directory])
  await rm(directory, { recursive: true, force: true, maxRetries: 3 })
}

/** A new directory that goes with the scope. `base`: below which one, default the system's temporary directory. */
export function tempDir(scope: Scope, name: string, base = tmpdir()): string {
  const directory = mkdtempSync(join(base, `narwharf-${name}-`))
  scope.teardown(() => removeTree(directory))
  return directory
}

/** A TCP port that was free a moment ago: for servers that must come back on the same one. */
export function freePort(host = '127.0.0.1'): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer()
    server.once('error', reject)
    server.listen(0, host, () => {
      const address = server.address()
      const port = typeof address === 'object' && address !== null ? address.port : 0
      server.close(() => resolve(port))
    })
  })
}
