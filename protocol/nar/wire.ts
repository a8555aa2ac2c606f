// The NAR format: one tree of files as one sequence of bytes, the same bytes for the same tree.
//
//   nar       = str("nix-archive-1") node
//   node      = str("(") str("type") ( regular | symlink | directory ) str(")")
//   regular   = str("regular") [ str("executable") str("") ] str("contents") str(<bytes>)
//   symlink   = str("symlink") str("target") str(<target>)
//   directory = str("directory") { entry }          names strictly increasing, compared as bytes
//   entry     = str("entry") str("(") str("name") str(<name>) str("node") node str(")")
//   str(s)    = length of s as u64, little endian; s; zero bytes up to a multiple of 8
//
// Names and targets are bytes, in no encoding. What is left to others: hashes, and what a name means to a file system
// (nothing here follows a symlink, and names that a case-insensitive disk would merge are different names).
//
// Source: Nix manual, "Nix Archive (NAR) format"; NixOS/nix src/libutil/archive.cc. The limits are those of Nix 2.34,
// so that nothing is passed on which a current client refuses.

/** Nodes above a node, the root included: a node below this many folders is refused. Nix's narMaxDepth. */
export const MAX_DEPTH = 64

/** Bytes of a name: NAME_MAX of Linux file systems. */
export const MAX_NAME_BYTES = 255

/** Bytes of a symlink's target: PATH_MAX less its closing zero. */
export const MAX_TARGET_BYTES = 4095

/** Bytes of a keyword; the longest is the magic's 13, the rest is for a readable message about a wrong one. */
export const MAX_KEYWORD_BYTES = 32

/** Strings start at multiples of this and are filled up to it. */
export const ALIGNMENT = 8

/** The first string of every NAR. */
export const MAGIC = 'nix-archive-1'

/** Zero bytes behind a string of that length. */
export const paddingOf = (length: number): number => (ALIGNMENT - (length % ALIGNMENT)) % ALIGNMENT

/** Bytes of `str` for a string of that length. */
export const sizeOfString = (length: number): number => ALIGNMENT + length + paddingOf(length)

/** The bytes of `str(…)` for each word, one behind the other. */
export function encodeStrings(...words: readonly (string | Uint8Array)[]): Buffer {
  return Buffer.concat(
    words.flatMap(word => {
      const bytes = Buffer.from(word)
      const length = Buffer.alloc(ALIGNMENT)
      length.writeBigUInt64LE(BigInt(bytes.length))
      return [length, bytes, Buffer.alloc(paddingOf(bytes.length))]
    }),
  )
}

/** What is wrong with a name, as the end of a sentence, or undefined for one that a directory entry may have. */
export function nameProblem(name: Uint8Array): string | undefined {
  if (name.length === 0) return 'a name is empty'
  if (name.length > MAX_NAME_BYTES) return `a name has more than ${MAX_NAME_BYTES} bytes`
  if (name[0] === 0x2e && (name.length === 1 || (name.length === 2 && name[1] === 0x2e))) {
    return 'a name is "." or ".."'
  }
  for (const byte of name) {
    if (byte === 0x2f) return 'a name has a slash in it'
    if (byte === 0) return 'a name has a zero byte in it'
  }
  return undefined
}

/** The same for a symlink's target: any bytes that a file system could hold, absolute or not. */
export function targetProblem(target: Uint8Array): string | undefined {
  if (target.length === 0) return 'a symlink has an empty target'
  if (target.length > MAX_TARGET_BYTES) {
    return `a symlink's target has more than ${MAX_TARGET_BYTES} bytes`
  }
  return target.includes(0) ? "a symlink's target has a zero byte in it" : undefined
}
