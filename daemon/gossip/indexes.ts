import type * as catalog from '../catalog/indexes.ts'

/** What gossip asks of the catalog's indexes; this host's own log is one among the others. */
export type Indexes = Pick<
  catalog.Indexes,
  'position' | 'begin' | 'apply' | 'finish' | 'forget' | 'list' | 'whole' | 'positionsOf'
>
