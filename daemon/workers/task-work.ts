import { createHash } from 'node:crypto'
import { createListing } from '../../protocol/nar/listing.ts'
import { createNarReader } from '../../protocol/nar/reader.ts'
import { fail } from '../../protocol/errors.ts'
import type { Compression } from '../../protocol/path-info.ts'
import { createFileSource, type FileSource } from './file-source.ts'
import { followGrowth } from './growth.ts'
import type { TaskRequest, TaskResult } from './messages.ts'
import { createTreeListing } from './tree-listing.ts'
import { createTreeNar } from './tree-nar.ts'
import type { Send, SliceResult, Work } from './work.ts'

/** Bytes hashed in one slice of a tree; one buffer serves all such tasks, since a slice uses it up. */
const TREE_SLICE_BYTES = 256 * 1024

/** Bytes read and checked in one slice of a file: xz gives them in about a millisecond. */
const FILE_SLICE_BYTES = 64 * 1024

let treeSlice: Buffer | undefined

function createTreeDigest(root: string, finish: (result: TaskResult) => SliceResult): Work {
  const source = createTreeNar(root)
  const hash = createHash('sha256')
  let narSize = 0
  return {
    slice() {
      treeSlice ??= Buffer.allocUnsafeSlow(TREE_SLICE_BYTES)
      const count = source.fill(treeSlice) as number
      hash.update(treeSlice.subarray(0, count))
      narSize += count
      return source.finished ? finish({ narHash: hash.digest(), narSize }) : 'more'
    },
    close() {
      source.close()
      return []
    },
  }
}

interface FileReading {
  readonly file: string
  readonly compression: Compression
  readonly hashed: boolean
  readonly growth?: SharedArrayBuffer | undefined
}

/** Reads a NAR file to its end, strictly, telling `take` of every byte. */
function createFileReading(
  { file, compression, hashed, growth }: FileReading,
  take: (bytes: Buffer) => void,
  finish: (file: FileSource['digest']) => SliceResult,
): Work {
  const source = createFileSource(file, compression, {
    hashed,
    growth: growth && followGrowth(growth),
  })
  const bytes = Buffer.allocUnsafeSlow(FILE_SLICE_BYTES)
  const took = (count: number): SliceResult => {
    take(bytes.subarray(0, count))
    return source.finished ? finish(source.digest) : 'more'
  }
  return {
    slice() {
      const count = source.fill(bytes)
      return typeof count === 'number' ? took(count) : count.then(took)
    },
    close() {
      source.close()
      return []
    },
  }
}

/** The work of a task; it ends with a `result` message. */
export function createTaskWork(id: number, request: TaskRequest, send: Send): Work {
  const finish = (result: TaskResult): SliceResult => {
    send({ op: 'result', id, result })
    return 'done'
  }
  switch (request.kind) {
    case 'digest-tree':
      return createTreeDigest(request.root, finish)
    case 'digest-file': {
      const reader = createNarReader({})
      const hash = createHash('sha256')
      const { narSizeMax = Infinity } = request
      let narSize = 0
      return createFileReading(
        { ...request, hashed: true },
        bytes => {
          narSize += bytes.length
          // A packed file may unpack to a thousand times its size: nobody wants to see the end of that.
          if (narSize > narSizeMax) {
            fail('NAR_INVALID', { problem: 'it is longer than promised', offset: narSizeMax })
          }
          reader.write(bytes)
          hash.update(bytes)
        },
        file => {
          reader.end()
          return finish({ narHash: hash.digest(), narSize, ...file() })
        },
      )
    }
    case 'list-tree': {
      const listing = createTreeListing(request.root)
      return {
        slice() {
          const json = listing.slice()
          return json === undefined ? 'more' : finish({ listing: json })
        },
        close: () => [],
      }
    }
    case 'list-file': {
      const listing = createListing()
      const reader = createNarReader(listing.handler)
      return createFileReading(
        { ...request, hashed: false },
        bytes => reader.write(bytes),
        () => {
          reader.end()
          return finish({ listing: listing.json() })
        },
      )
    }
  }
}
