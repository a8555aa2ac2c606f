import { lstatSync, readlinkSync } from 'node:fs'
import { createListing } from '../../protocol/nar/listing.ts'
import {
  MAX_NODE_BYTES,
  putDirectory,
  putNodeEnd,
  putNodeStart,
  putRegular,
  putSymlink,
} from '../../protocol/nar/writer.ts'
import { failedOn } from './fs-errors.ts'
import { fileEndBytes, isExecutable } from './tree-nar.ts'
import { createTreeWalk } from './tree-walk.ts'

/** Nodes of one slice: no contents are read, so more than of a dump. */
const NODES_PER_SLICE = 128

/** The listing of a tree on disk, made without reading contents. */
export interface TreeListing {
  /** Works for about a millisecond; the `.ls` JSON once it is complete. Throws as {@link createTreeWalk} does. */
  slice(): Buffer | undefined
}

/** Starts the listing of the tree at `root`, with narOffsets as a dump would have them. */
export function createTreeListing(root: string): TreeListing {
  const walk = createTreeWalk(root)
  const { handler, json } = createListing()
  /** Each node is written here for its length only. */
  const scratch = Buffer.alloc(MAX_NODE_BYTES)
  let narOffset = 0

  const node = (step: 'regular' | 'directory' | 'symlink'): void => {
    const name = walk.name()
    const start = putNodeStart(scratch, 0, name)
    if (step === 'directory') {
      handler.directory?.(name)
      narOffset += putDirectory(scratch, start)
    } else if (step === 'symlink') {
      const target = readlinkSync(walk.path(), 'buffer')
      handler.symlink?.(name, target)
      narOffset += putNodeEnd(scratch, putSymlink(scratch, start, target), walk.isRoot())
    } else {
      const stats = lstatSync(walk.path())
      const executable = isExecutable(stats)
      narOffset += putRegular(scratch, start, stats.size, executable)
      handler.regular?.(name, stats.size, executable, narOffset)
      narOffset += stats.size + fileEndBytes(stats.size, walk.isRoot())
    }
  }

  return {
    slice() {
      for (let nodes = 0; nodes < NODES_PER_SLICE; nodes++) {
        const step = walk.next()
        if (step === undefined) return json()
        if (step === 'leave') {
          handler.leave?.()
          narOffset += putNodeEnd(scratch, 0, walk.isRoot())
          continue
        }
        try {
          node(step)
        } catch (error) {
          failedOn(walk.label(), error)
        }
      }
      return undefined
    },
  }
}
