// What narwharf uses of corestore 7.12, which ships no types.
declare module 'corestore' {
  import type Hypercore from 'hypercore'
  import type CorestoreStorage from 'hypercore-storage'
  import type { SwarmConnection } from 'hyperswarm'

  interface GetOptions {
    readonly key?: Buffer
    readonly keyPair?: { readonly publicKey: Buffer; readonly secretKey: Buffer }
    /** Made when missing, unless false. */
    readonly createIfMissing?: boolean
    /** False: held and served, but nothing is asked for. */
    readonly active?: boolean
  }

  export default class Corestore {
    constructor(directory: string, options?: { readonly allowBackup?: boolean })
    readonly storage: CorestoreStorage
    ready(): Promise<void>
    get(options: GetOptions): Hypercore
    /** Offers every core of the store on that connection, and opens stored ones when asked. */
    replicate(connection: SwarmConnection): void
    close(): Promise<void>
  }
}
