/** Debian suites with a Nix newer than the host's. */
export const SUITES: Readonly<Record<'trixie' | 'sid', string>>
export function chrootsDirectory(): string
export function readyChroots(): { suite: string; directory: string; nixVersion: string }[]
