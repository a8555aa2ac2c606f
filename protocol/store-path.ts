/** The 32 nix32 characters that name a store path: `HashPart` only comes from a parser. */
export type HashPart = string & { readonly __brand: 'HashPart' }

/** `<hash part>-<name>`, without the store directory. */
export type BaseName = string & { readonly __brand: 'BaseName' }

/** `<store dir>/<hash part>-<name>`. */
export type StorePath = string & { readonly __brand: 'StorePath' }

export const DEFAULT_STORE_DIR = '/nix/store'
