import type { FromWorker } from './messages.ts'

/**
 * What a piece of work says after a slice: `more` wants another turn, `waiting` has nothing to do until buffers come,
 * `done` is over and has said so.
 */
export type SliceResult = 'more' | 'waiting' | 'done'

/** One stream or task of a worker. */
export interface Work {
  /** Works for about a millisecond. What it throws ends the work. */
  slice(): SliceResult | Promise<SliceResult>
  /** Buffers for chunks to come. */
  give?(buffers: readonly ArrayBuffer[]): void
  /** Lets go of everything and returns the buffers that were not used. */
  close(): ArrayBuffer[]
}

/** Says something to the main thread. */
export type Send = (message: FromWorker, transfer?: readonly ArrayBuffer[]) => void
