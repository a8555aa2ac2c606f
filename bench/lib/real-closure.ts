import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { makeNixHost, type NixHost } from '../../test/helpers/nix-host.ts'
import { tempDir, type Scope } from '../../test/helpers/scope.ts'

// Closures made by a real Nix from this machine's own files, so that they compress as software does: one build of many outputs.

export interface RealClosure {
  readonly host: NixHost
  readonly top: string
  readonly paths: number
  readonly narBytes: number
}

/** What is asked for. */
export interface ClosureShape {
  readonly paths: number
  /** Sum of the file sizes, at most what /usr has. */
  readonly bytes: number
  readonly baseDir?: string | undefined
}

/** How many other outputs each refers to. */
const REFERENCES = 7

const EXPRESSION = `
{ count, share }:
derivation {
  name = "closure"; system = builtins.currentSystem; builder = "/bin/bash"; PATH = "/bin:/usr/bin";
  outputs = [ "out" ] ++ builtins.genList (i: "o\${toString (i + 1)}") (count - 1);
  inherit share;
  args = [ "-euc" ''
    names=($outputs)
    for i in "''\${!names[@]}"; do
      path=''\${!names[i]}
      mkdir -p $path
      # An output refers to some before it; the first, which is the top, to all.
      for r in 1 2 3 4 5 6 ${REFERENCES}; do
        before=$((i / 2 - r + 1))
        if [ $before -gt 0 ]; then other=''\${names[before]}; echo ''\${!other}; fi
      done > $path/references
      echo $i > $path/number
      if [ -e $share/$i ]; then tar -C / -c -T $share/$i | tar -C $path -x; fi
    done
    for name in $outputs; do echo ''\${!name}; done > $out/everything
  '' ];
}`

/** Makes a host with such a closure in its store. */
export async function makeRealClosure(scope: Scope, shape: ClosureShape): Promise<RealClosure> {
  const dir = tempDir(scope, 'share', shape.baseDir)
  writeFileSync(join(dir, 'closure.nix'), EXPRESSION)
  const host = makeNixHost(scope, { extra: dir, ...(shape.baseDir && { baseDir: shape.baseDir }) })
  // Files in the order of find: neighbours, as they are in a package. Hard links and odd permissions stay out.
  await host.run('sh', [
    '-euc',
    `mkdir /extra/share
     find /usr/lib /usr/share /usr/bin -xdev -type f -links 1 -size -20000k -perm -444 ! -perm /7000 -printf '%s %p\\n' |
     awk -v total="$1" -v count="$2" '
       BEGIN { each = total / (count - 1); n = 1 }
       { size = $1; sub(/^[0-9]+ \\//, ""); if (sum >= total) exit; sum += size
         print > ("/extra/share/" n); part += size
         if (part >= each && n < count - 1) { close("/extra/share/" n); n++; part = 0 } }'`,
    'sh',
    String(shape.bytes),
    String(shape.paths),
  ])
  const build = [
    '--no-out-link',
    '--arg',
    'count',
    String(shape.paths),
    '--argstr',
    'share',
    '/extra/share',
  ]
  const [top = ''] = await host.words('nix-build', '/extra/closure.nix', ...build)
  const paths = await host.words('nix-store', '-qR', top)
  const sizes = await host.words('nix-store', '-q', '--size', ...paths)
  return {
    host,
    top,
    paths: paths.length,
    narBytes: sizes.reduce((sum, size) => sum + Number(size), 0),
  }
}
