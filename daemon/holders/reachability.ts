import { NarwharfError } from '../../protocol/errors.ts'
import type { EventBus } from '../events.ts'

/** Whether a holder can be read, told to the other rooms when it changes. */
export interface Reachability {
  /** Why the holder is out of reach; undefined while it is up. */
  readonly problem: string | undefined
  /** The holder answers. */
  up(): void
  /** The holder is out of reach: remembers why and gives the HOLDER_UNREADABLE to throw. */
  down(problem: string, cause?: unknown): NarwharfError
  /** A holding that was refused, said once per `identity`. */
  bad(identity: string, storePath: string, problem: string): void
}

/** Refused holdings remembered so that each is told once; then memory is worth more than silence. */
const SAID_MAX = 4096

/** Makes the register of one holder; a holder starts neither up nor down. */
export function createReachability(holderId: string, events: EventBus | undefined): Reachability {
  let state: { readonly problem: string | undefined } | undefined
  const said = new Set<string>()
  return {
    get problem() {
      return state?.problem
    },
    up() {
      if (state !== undefined && state.problem === undefined) return
      state = { problem: undefined }
      events?.emit('holder:up', holderId)
    },
    down(problem, cause) {
      if (state?.problem !== problem) {
        state = { problem }
        events?.emit('holder:down', holderId, problem)
      }
      return new NarwharfError('HOLDER_UNREADABLE', { holder: holderId, problem }, cause)
    },
    bad(identity, storePath, problem) {
      if (said.has(identity)) return
      if (said.size >= SAID_MAX) said.clear()
      said.add(identity)
      events?.emit('holding:bad', { holderId, storePath, problem })
    },
  }
}
