import { EventEmitter } from 'node:events'

/** Notices between rooms: facts, never requests. Nobody may depend on being heard. */
export interface Events {
  /** A holder's content changed: paths came or went. */
  'holder:changed': [holderId: string]
  /** A holding turned out damaged or was refused; said once per identity. */
  'holding:bad': [{ holderId: string; storePath: string; problem: string }]
  /** A holder came (opened, plugged, connected) or went. */
  'holder:up': [holderId: string]
  'holder:down': [holderId: string, problem: string]
}

export type EventBus = EventEmitter<Events>

export function createEventBus(): EventBus {
  return new EventEmitter<Events>()
}
