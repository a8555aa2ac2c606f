import t from 'tap'
import { daemonSkip, fetchText, startDaemon } from '../helpers/daemon.ts'
import { useSubstituters } from '../helpers/nix-client.ts'
import { labSkip, makeNixHost } from '../helpers/nix-host.ts'
import { badExchanges, startProxy } from '../helpers/proxy.ts'

// Content-addressed derivations: which output a derivation has is itself a fact to be substituted, the realisation.

const FEATURES = { 'experimental-features': 'nix-command ca-derivations' }
const DERIVATION = `
  let ca = attrs: derivation ({
    system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/bin";
    __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256";
  } // attrs); in
  ca rec {
    name = "ca-user"; tool = ca { name = "ca-tool"; args = [ "-c" "echo tool > $out" ]; };
    args = [ "-c" "cat $tool > $out; echo $tool >> $out" ];
  }`

t.test(
  'a floating output is found by its realisation',
  { skip: labSkip || daemonSkip },
  async t => {
    const host = makeNixHost(t, { conf: FEATURES })
    const [built = ''] = await host.words('nix-build', '--no-out-link', '-E', DERIVATION)
    const daemon = await startDaemon(t, { store: { enable: true, root: host.root } })
    const proxy = await startProxy(t, daemon.url)

    const client = makeNixHost(t, { conf: FEATURES })
    // No build slots: what is not substituted fails.
    useSubstituters(client, [proxy.url], [daemon.publicKey], { 'max-jobs': '0' })
    const [substituted] = await client.words('nix-build', '--no-out-link', '-E', DERIVATION)
    t.equal(substituted, built)
    const asked = proxy.exchanges.filter(({ url }) => url.startsWith('/realisations/'))
    t.match(asked, [{ status: 200 }], 'the realisation was asked for and there')
    t.same(badExchanges(proxy), [])

    const url = asked[0]?.url ?? ''
    const { body } = await fetchText(`${daemon.url}${url}`)
    t.match(JSON.parse(body), { outPath: built.slice('/nix/store/'.length) })
    const head = await fetchText(`${daemon.url}${url}`, { method: 'HEAD' })
    t.same([head.status, head.bytes.length], [200, 0])
  },
)
