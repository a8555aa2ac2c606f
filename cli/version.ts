import { readFileSync } from 'node:fs'

/** The version of the package this file belongs to: package.json lies one level up in the source and two in dist. */
export function version(): string {
  const here = import.meta.url
  const file = new URL(here.endsWith('.ts') ? '../package.json' : '../../package.json', here)
  return (JSON.parse(readFileSync(file, 'utf8')) as { readonly version: string }).version
}
