import type { NotedMerge } from '../../protocol/host-note-fields.ts'
import type { HashPart } from '../../protocol/store-path.ts'
import type { EventBus } from '../events.ts'
import type { PeerIndexes, PeerKey } from '../site.ts'
import type { Notes } from './note-shelf.ts'
import type { NotedDrives } from './noted-drives.ts'

// Keepers that merge the same part of a shipment at a time tell each other so by their notes, and which of them is through
// with its share.

/** A part of a shipment that is merged here. */
export interface Merging {
  readonly shipment: string
  readonly part: number
  readonly drive?: string | undefined
}

/** What a merge knows of the other keepers; the shape that shipments ask for. */
export interface SharedMerge {
  readonly self: PeerKey
  sharers(): readonly PeerKey[]
  kept(hashPart: HashPart): boolean
  shareDone(): void
  othersDone(signal: AbortSignal): Promise<void>
  end(whole: boolean): void
}

export interface MergeSharing {
  /** A merge begins. */
  begin(merging: Merging): SharedMerge
  /** For this host's note. */
  running(): readonly NotedMerge[]
  /** Parts merged whole since the start. */
  merged(): readonly string[]
}

export function createMergeSharing(options: {
  readonly self: PeerKey
  readonly notes: Notes
  readonly drives: NotedDrives
  readonly indexes: Pick<PeerIndexes, 'find'>
  readonly isUp: (key: PeerKey) => boolean
  readonly events: EventBus
  /** What the note says of merges has changed. */
  readonly onChange: () => void
}): MergeSharing {
  const { self, notes, drives, indexes, isUp, events, onChange } = options
  const running = new Set<{ merging: Merging; shareDone: boolean }>()
  const merged = new Set<string>()

  /** Others that merge the same just now. */
  const others = ({ shipment, part }: Merging): { host: PeerKey; shareDone: boolean }[] =>
    notes.all().flatMap(({ host, note }) => {
      if (host === self || !isUp(host)) return []
      const same = note.merges.find(one => one.shipment === shipment && one.part === part)
      return same === undefined ? [] : [{ host, shareDone: same.shareDone }]
    })

  return {
    running: () =>
      [...running].map(({ merging: { shipment, part, drive }, shareDone }) => ({
        ...{ shipment, part, shareDone },
        ...(drive !== undefined && { drive }),
      })),
    merged: () => [...merged],
    begin(merging) {
      const one = { merging, shareDone: false }
      running.add(one)
      onChange()
      return {
        self,
        sharers: () => [self, ...others(merging).map(({ host }) => host)],
        kept: hashPart =>
          indexes.find(hashPart).some(({ peer }) => {
            const note = notes.of(peer)?.note
            // A drive plugged there is in its index too: without a digest nobody can tell the two apart.
            return note?.keeper === true && !drives.mayBeOnDrive(note, hashPart)
          }),
        shareDone() {
          one.shareDone = true
          onChange()
        },
        othersDone: signal =>
          new Promise(resolve => {
            const look = () => {
              if (!signal.aborted && others(merging).some(({ shareDone }) => !shareDone)) return
              events.off('note:changed', look)
              events.off('peer:down', look)
              signal.removeEventListener('abort', look)
              resolve()
            }
            events.on('note:changed', look)
            events.on('peer:down', look)
            signal.addEventListener('abort', look)
            look()
          }),
        end(whole) {
          running.delete(one)
          if (whole) merged.add(`${merging.shipment}/${merging.part}`)
          onChange()
        },
      }
    },
  }
}
