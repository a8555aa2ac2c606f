// A host that only looks for others: the discovery room of the built daemon, driven by JSON lines on standard input, telling
// on standard output what it hears. `node discovery-host.mjs MODULE-DIRECTORY OPTIONS-JSON`.

import { join } from 'node:path'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { createInterface } from 'node:readline'
import { pathToFileURL } from 'node:url'

const [daemon = '', text = '{}'] = process.argv.slice(2)
const load = file => import(pathToFileURL(join(daemon, file)).href)
const { createDiscovery } = await load('discovery/discovery.js')
const { createEventBus } = await load('events.js')

const options = JSON.parse(text)
const say = line => process.stdout.write(`${JSON.stringify(line)}\n`)
const log = level => (facts, message) => options.verbose && say({ log: level, ...facts, message })
const events = createEventBus()
for (const event of ['peer:sighted', 'cache:sighted', 'cache:gone']) {
  events.on(event, what => say({ event, what }))
}
const discovery = createDiscovery({
  hostName: 'lab',
  port: 6280,
  mdns: true,
  interfaces: [],
  peers: [],
  nixServe: true,
  isMember: key => options.members?.includes(key) ?? false,
  ...options,
  events,
  log: { info: log('info'), warn: log('warn'), debug: log('debug') },
})
let delay = monitorEventLoopDelay({ resolution: 5 })

const close = async () => {
  await discovery.close()
  process.exit(0)
}
process.on('SIGTERM', close)

createInterface({ input: process.stdin })
  .on('line', line => {
    const { told, watch } = JSON.parse(line)
    if (told !== undefined) return discovery.told(told)
    if (watch === true) {
      delay = monitorEventLoopDelay({ resolution: 5 })
      delay.enable()
      return
    }
    say({
      report: {
        candidates: discovery.candidates(),
        caches: discovery.caches(),
        problems: discovery.problems(),
        rssBytes: process.memoryUsage.rss(),
        cpuMs: process.cpuUsage().user / 1000 + process.cpuUsage().system / 1000,
        longestStallMs: delay.max / 1e6,
      },
    })
  })
  .on('close', close)

await discovery.open()
say({ open: true })
