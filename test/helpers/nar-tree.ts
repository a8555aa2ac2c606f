import type { NarHandler } from '../../protocol/nar/reader.ts'
import type { NarTree } from '../../protocol/nar/writer.ts'

type Entries = { name: Buffer; node: NarTree }[]

/** A handler that builds the tree it is told of; contents keep how they came in pieces out of sight. */
export function createTreeBuilder(): { readonly handler: NarHandler; tree(): NarTree | undefined } {
  const open: Entries[] = []
  let root: NarTree | undefined
  let pieces: Buffer[] = []
  let file: (() => void) | undefined

  const endFile = () => {
    file?.()
    file = undefined
  }
  const add = (name: Buffer | undefined, node: NarTree) => {
    if (name === undefined) root = node
    // The reader's buffers are only valid during the call.
    else open.at(-1)?.push({ name: Buffer.from(name), node })
  }

  return {
    handler: {
      directory(name) {
        endFile()
        const entries: Entries = []
        add(name, { type: 'directory', entries })
        open.push(entries)
      },
      regular(name, size, executable) {
        endFile()
        pieces = []
        const kept = name && Buffer.from(name)
        file = () => {
          const contents = Buffer.concat(pieces)
          if (contents.length !== size) throw new Error(`${contents.length} bytes of ${size} came`)
          add(kept, { type: 'regular', contents, executable })
        }
      },
      contents(bytes) {
        pieces.push(Buffer.from(bytes))
      },
      symlink(name, target) {
        endFile()
        add(name, { type: 'symlink', target: Buffer.from(target) })
      },
      leave() {
        endFile()
        open.pop()
      },
    },
    tree() {
      endFile()
      return root
    },
  }
}
