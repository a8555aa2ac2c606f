// Packets there and back, to see what a cable of the lab does:
//   node echo.mjs serve [GROUP]      sends back each UDP packet that comes to port 7777 (or to that multicast group)
//   node echo.mjs ask ADDRESS N      sends N packets, one each 10 ms, waits 300 ms longer; prints {"received": …, "medianMs": …}
//   node echo.mjs multicast GROUP N INTERFACE-ADDRESS    the same to a multicast group
import { createSocket } from 'node:dgram'

const PORT = 7777
const INTERVAL_MS = 10
const LAST_WAIT_MS = 300

const [verb, address = '', count = '1', interfaceAddress] = process.argv.slice(2)
const socket = createSocket({ type: 'udp4', reuseAddr: true })

if (verb === 'serve') {
  socket.on('message', (message, from) => socket.send(message, from.port, from.address))
  socket.bind(PORT, () => {
    if (address !== '') socket.addMembership(address, count)
    console.log('ready')
  })
} else {
  const sent = []
  const times = []
  socket.on('message', message => times.push(performance.now() - sent[Number(String(message))]))
  socket.bind(0, () => {
    if (verb === 'multicast') socket.setMulticastInterface(interfaceAddress)
    const timer = setInterval(() => {
      socket.send(String(sent.push(performance.now()) - 1), PORT, address, () => {})
      if (sent.length < Number(count)) return
      clearInterval(timer)
      setTimeout(() => {
        times.sort((a, b) => a - b)
        console.log(
          JSON.stringify({ received: times.length, medianMs: times[times.length >> 1] ?? null }),
        )
        socket.close()
      }, LAST_WAIT_MS)
    }, INTERVAL_MS)
  })
}
