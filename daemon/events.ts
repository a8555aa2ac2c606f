import { EventEmitter } from 'node:events'
import type { PeerCandidate, PeerKey } from './site.ts'

/** Notices between rooms: facts, never requests. Nobody may depend on being heard. */
export interface Events {
  /** A holder's content changed: paths came or went. */
  'holder:changed': [holderId: string]
  /** A holding turned out damaged or was refused; said once per identity. */
  'holding:bad': [{ holderId: string; storePath: string; problem: string }]
  /** A holder came (opened, plugged, connected) or went. */
  'holder:up': [holderId: string]
  'holder:down': [holderId: string, problem: string]
  /** Somebody said where a host may be; said again at every sighting. */
  'peer:sighted': [PeerCandidate]
  /** A member's connection was made, or the last one to it ended. */
  'peer:up': [PeerKey]
  'peer:down': [PeerKey, problem: string]
  /** A member was caught saying or sending what is not so. */
  'peer:lied': [PeerKey, problem: string]
  /** A newer member list is in force: whoever is no member any more is to be cut off now. */
  'members:changed': []
  /** The catalog's picture of a peer's index changed. */
  'index:changed': [PeerKey]
  /** A newer note of that host is known, or it is forgotten; `told` by another host. */
  'note:changed': [PeerKey, by: 'us' | 'told']
  /** Another program's binary cache (`_nix-serve._tcp`) came or went on the LAN. */
  'cache:sighted': [url: string]
  'cache:gone': [url: string]
  /** A drive can be used (its holder is asked already); `changed` when what lies on it is not what it was. */
  'drive:plugged': [driveId: string]
  'drive:changed': [driveId: string]
  /** It is to be ejected: whoever uses it ends that now. */
  'drive:leaving': [driveId: string]
  /** It is not there any more; `problem` where it went without being ejected or unmounted. */
  'drive:gone': [driveId: string, problem?: string | undefined]
}

export type EventBus = EventEmitter<Events>

export function createEventBus(): EventBus {
  return new EventEmitter<Events>()
}
