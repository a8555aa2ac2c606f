import type { HolderStatus, WhoHasResult } from '../../protocol/api.ts'
import type { Catalog } from '../catalog/catalog.ts'
import type { EventBus } from '../events.ts'
import type { Holder, HolderKind } from '../holders/holder.ts'
import { holderListOf, type Holders } from '../holders/holder-list.ts'
import { createScanner, type HoldingsNotice, type Scanner } from './scanner.ts'
import type { PeerKey } from '../site.ts'
import { whoHas, type DriveFacts, type PeerPresence } from './who-has.ts'

/** How often holders are asked whether they changed, ms: 0.1 % of a core, and a new path is found by name at once. */
const CHECK_MS = 150

/** Holders of this machine that stay: what the configuration no longer names is gone. A drive that is not there is in a drawer. */
const LOCAL_KINDS: ReadonlySet<HolderKind> = new Set(['nix-store', 'cache-dir'])

export interface InventoryOptions {
  readonly holders: Holders
  readonly catalog: Catalog
  readonly events: EventBus
  readonly hostName: string
  /** How it stands with a peer; without it none is there. */
  readonly presence?: ((peer: PeerKey) => PeerPresence) | undefined
  /** What a drive is called and where it is, by its holder's id. */
  readonly driveOf?: ((holderId: string) => DriveFacts | undefined) | undefined
  readonly checkMs?: number | undefined
  /** Ms since 1970. */
  readonly clock?: (() => number) | undefined
}

/**
 * Keeps the catalog's holders and holdings true for the holders of this host, and answers who has what: from the catalog,
 * and for every local holder by asking it, since a path may have come or gone a moment ago.
 */
export interface Inventory {
  /** Returns at once; the first scans run behind. */
  open(): Promise<void>
  /** Stops scans where they are. */
  close(): Promise<void>
  status(): HolderStatus[]
  /** Tells of every change once it is in the catalog, from now on; gives what ends it. */
  listen(listener: (notice: HoldingsNotice) => void): () => void
  /** Never rejects for a bad query: the result says what is wrong with it. */
  whoHas(query: string): Promise<WhoHasResult>
  /** Resolves when no scan runs. */
  idle(): Promise<void>
}

/** The inventory of one host; the catalog must be open while it is. */
export function createInventory(options: InventoryOptions): Inventory {
  const { catalog, events, hostName, checkMs = CHECK_MS, clock = Date.now } = options
  const { presence = () => ({ up: false }), driveOf = () => undefined } = options
  const list = holderListOf(options.holders)
  let scanners: readonly Scanner[] = []
  let unlisten: (() => void) | undefined
  const leaving = new Set<Promise<void>>()
  let timer: NodeJS.Timeout | undefined
  const listeners = new Set<(notice: HoldingsNotice) => void>()
  const notice = (what: HoldingsNotice): void => {
    for (const listener of listeners) listener(what)
  }

  const scannerOf = (holderId: string) => scanners.find(({ holder }) => holder.id === holderId)
  const onUp = (holderId: string): void => scannerOf(holderId)?.setUp(undefined)
  const onDown = (holderId: string, problem: string): void => scannerOf(holderId)?.setUp(problem)
  const check = (): void => {
    for (const scanner of scanners) scanner.check()
  }
  const parts = { catalog, events, hostName, now: clock, notice }
  const arrive = (holder: Holder): void => {
    const scanner = createScanner(holder, parts)
    scanners = [...scanners, scanner]
    scanner.check()
  }
  /** What it had stays known, as what lies in a drawer; nobody may take it for being there. */
  const depart = (holder: Holder): void => {
    const scanner = scannerOf(holder.id)
    if (scanner === undefined) return
    scanners = scanners.filter(one => one !== scanner)
    const last = scanner.leave().finally(() => leaving.delete(last))
    leaving.add(last)
  }
  /** A drive that was there when the daemon was killed is not there before it is seen. */
  const putAway = async (): Promise<void> => {
    for (const { id, kind, storeDir, host, up, lastSeen } of catalog.holders.list()) {
      if (kind !== 'drive' || !up || list.current().some(holder => holder.id === id)) continue
      await catalog.holders.upsert({ id, kind, storeDir, host, up: false, lastSeen })
    }
  }

  return {
    async open() {
      if (timer !== undefined) return
      timer = setInterval(check, checkMs).unref()
      for (const { id, kind } of catalog.holders.list()) {
        const known = list.current().some(holder => holder.id === id)
        if (LOCAL_KINDS.has(kind) && !known) await catalog.holders.forget(id)
      }
      await putAway()
      scanners = list.current().map(holder => createScanner(holder, parts))
      unlisten = list.listen(({ kind, holder }) => {
        if (kind === 'added') arrive(holder)
        else depart(holder)
      })
      events.on('holder:up', onUp)
      events.on('holder:down', onDown)
      check()
    },
    async close() {
      if (timer === undefined) return
      clearInterval(timer)
      timer = undefined
      events.off('holder:up', onUp)
      events.off('holder:down', onDown)
      unlisten?.()
      await Promise.all([...scanners.map(scanner => scanner.close()), ...leaving])
    },
    status: () => scanners.map(statusOf),
    listen(listener) {
      listeners.add(listener)
      return () => void listeners.delete(listener)
    },
    whoHas: query =>
      whoHas(query, {
        ...{ holders: list.current(), catalog, hostName, presence, driveOf, now: clock },
      }),
    async idle() {
      await Promise.all(leaving)
      await Promise.all(scanners.map(scanner => scanner.idle()))
    },
  }
}

function statusOf(scanner: Scanner): HolderStatus {
  const { id, kind, storeDir, title } = scanner.holder
  const { up, problem, paths, narBytes, inventoryAt } = scanner.state()
  return {
    id,
    ...(title === undefined ? {} : { title }),
    kind,
    up,
    storeDir,
    ...(problem === undefined ? {} : { problem }),
    ...(paths === undefined ? {} : { paths }),
    ...(narBytes === undefined ? {} : { narBytes }),
    ...(inventoryAt === undefined ? {} : { inventoryAt: new Date(inventoryAt).toISOString() }),
  }
}
