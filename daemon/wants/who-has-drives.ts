import type { PathHolders, WhoHasResult } from '../../protocol/api.ts'
import { hashPartOf, type StorePath } from '../../protocol/store-path.ts'
import { driveHolderId } from '../holders/drive.ts'
import { whereaboutsOf, type NotedDrives, type ToldDrive } from './noted-drives.ts'
import { storePathOf } from './resolve-wish.ts'

// Who has what, on drives that only other hosts know: by their digests, which know hash parts and no names.

type HolderAnswer = PathHolders['holders'][number]

function answerOf(told: ToldDrive): HolderAnswer {
  const { drive } = told
  const { host, up, lastSeen } = whereaboutsOf(told)
  return {
    ...{ id: driveHolderId(drive.id), kind: 'drive', host, up, name: drive.name },
    ...(lastSeen !== undefined && { lastSeen }),
    ...(drive.label !== undefined && { label: drive.label }),
    ...(up && drive.mountPoint !== undefined && { mountPoint: drive.mountPoint }),
  }
}

/** Whether another host's word of a drive says more than what this one knows of it. */
const saysMore = (theirs: HolderAnswer, ours: HolderAnswer | undefined): boolean =>
  ours === undefined || (!ours.up && (theirs.up || (theirs.lastSeen ?? '') > (ours.lastSeen ?? '')))

function withDrives(match: PathHolders, drives: readonly HolderAnswer[]): PathHolders {
  let holders = [...match.holders]
  for (const theirs of drives) {
    const ours = holders.find(({ id }) => id === theirs.id)
    if (saysMore(theirs, ours)) holders = [...holders.filter(one => one !== ours), theirs]
  }
  return { ...match, holders }
}

const asked = (query: string, storeDir: string): StorePath | undefined => {
  try {
    return storePathOf(query.trim(), storeDir)
  } catch {
    return undefined
  }
}

/** Adds the drives that other hosts tell of to what is known here. */
export function withNotedDrives(
  results: readonly WhoHasResult[],
  noted: Pick<NotedDrives, 'withPath'>,
  storeDir: string,
): WhoHasResult[] {
  const on = (path: StorePath) => noted.withPath(hashPartOf(path)).map(answerOf)
  return results.map(result => {
    const matches = result.matches.map(match => withDrives(match, on(match.storePath as StorePath)))
    const path = asked(result.query, storeDir)
    if (path === undefined || matches.some(({ storePath }) => storePath === path)) {
      return { ...result, matches }
    }
    const holders = on(path)
    // The name is the asker's word: a digest knows the hash part only.
    return holders.length === 0
      ? { ...result, matches }
      : { ...result, matches: [...matches, { storePath: path, holders }] }
  })
}
