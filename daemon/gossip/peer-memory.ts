import { readFileSync } from 'node:fs'
import { rename, writeFile } from 'node:fs/promises'
import { isIPv4 } from 'node:net'
import type { Logger } from 'pino'
import { parsePeerKey, type PeerAddress, type PeerKey } from '../site.ts'

/** What is remembered of a member over restarts: where to look for it at once, and which log of it we have. */
export interface RememberedPeer {
  readonly key: PeerKey
  /** ISO 8601; by this host's clock, for people to read. */
  readonly lastSeen: string | undefined
  readonly addresses: readonly PeerAddress[]
  /** Its signed head, base64. */
  readonly head: string | undefined
}

export interface PeerMemory {
  readonly loaded: readonly RememberedPeer[]
  /** Something changed: written after a while. */
  touch(): void
  /** Writes what is not yet written. */
  close(): Promise<void>
}

const isAddress = (value: unknown): value is PeerAddress => {
  const { host, port } = (value ?? {}) as Partial<PeerAddress>
  return typeof host === 'string' && isIPv4(host) && Number.isInteger(port)
}

function parse(value: unknown): RememberedPeer[] {
  if (!Array.isArray(value)) return []
  return value.flatMap((one: unknown): RememberedPeer[] => {
    const { key, lastSeen, addresses, head } = (one ?? {}) as Readonly<Record<string, unknown>>
    const peer = typeof key === 'string' ? parsePeerKey(key) : undefined
    if (peer === undefined) return []
    return [
      {
        key: peer,
        lastSeen: typeof lastSeen === 'string' ? lastSeen : undefined,
        addresses: Array.isArray(addresses) ? addresses.filter(isAddress) : [],
        head: typeof head === 'string' ? head : undefined,
      },
    ]
  })
}

/** Reads the file; `current` is asked for what to write. A file that cannot be read is one that is not there. */
export function openPeerMemory(
  file: string,
  saveMs: number,
  current: () => readonly RememberedPeer[],
  log: Logger,
): PeerMemory {
  let loaded: RememberedPeer[] = []
  try {
    loaded = parse(JSON.parse(readFileSync(file, 'utf8')))
  } catch {
    // Not there yet, or cut short: the peers will say it all again.
  }
  let timer: NodeJS.Timeout | undefined
  let saving: Promise<void> = Promise.resolve()
  const save = () => {
    timer = undefined
    const text = `${JSON.stringify(current())}\n`
    saving = saving
      .then(() => writeFile(`${file}.new`, text))
      .then(() => rename(`${file}.new`, file))
      .catch((error: unknown) =>
        log.warn({ err: error }, 'what is known of the peers is not written'),
      )
  }
  return {
    loaded,
    touch: () => void (timer ??= setTimeout(save, saveMs)),
    async close() {
      if (timer !== undefined) {
        clearTimeout(timer)
        save()
      }
      await saving
    },
  }
}
