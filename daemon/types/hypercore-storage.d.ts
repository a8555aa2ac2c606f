// What narwharf uses of hypercore-storage 3.3, which ships no types.
declare module 'hypercore-storage' {
  export interface CorePointer {
    readonly corePointer: number
    readonly dataPointer: number
  }

  export default class CorestoreStorage {
    createCoreStream(): AsyncIterable<{ readonly discoveryKey: Buffer; readonly core: CorePointer }>
    /** Deletes a core that no session has open. */
    deleteCore(pointer: CorePointer): Promise<void>
    compact(): Promise<void>
  }
}
