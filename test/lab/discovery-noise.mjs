// A hostile or careless neighbour. `node discovery-noise.mjs flood MS OWN-ADDRESS` sends packets that would hurt a trusting
// parser or table, as fast as it can; `... cache PORT OWN-ADDRESS` announces a plain `_nix-serve._tcp`, as avahi does.

import { randomBytes } from 'node:crypto'
import { createSocket } from 'node:dgram'
import Bonjour from 'bonjour-service'
import dnsPacket from 'dns-packet'

const GROUP = '224.0.0.251'
const PORT = 5353
const [what, amount = '0', address = ''] = process.argv.slice(2)

const fake = number => {
  const name = `x${number}._narwharf._tcp.local`
  const pk = randomBytes(32).toString('hex')
  return [
    { name: '_narwharf._tcp.local', type: 'PTR', ttl: 4500, data: name },
    { name, type: 'SRV', ttl: 120, data: { port: (number % 65535) + 1, target: 'x.local' } },
    { name, type: 'TXT', ttl: 4500, data: [Buffer.from('v=1'), Buffer.from(`pk=${pk}`)] },
  ]
}

/** A name at the end of 1200 pointers, each to the one before, asked for by every record. */
const pointers = () => {
  const packet = Buffer.alloc(4000)
  packet.writeUInt16BE(0x8400, 2)
  packet.writeUInt16BE(110, 6)
  packet.write('\x09_narwharf\x00', 12, 'latin1')
  let at = 24
  packet.writeUInt16BE(0xc00c, at)
  for (let i = 0; i < 1200; i++, at += 2) packet.writeUInt16BE(0xc000 + at, at + 2)
  for (let i = 0; i < 110 && at + 14 < packet.length; i++) {
    packet.writeUInt16BE(0xc000 + 24 + 2400, at + 2)
    packet.writeUInt16BE(16, at + 4)
    at += 12
  }
  return packet
}

/** What is sent in turn: each kind would hurt something else. */
const KINDS = [
  // The header promises four times 65,535 records.
  () =>
    Buffer.concat([
      Buffer.from('000084000ffffffffffffff'.padEnd(24, 'f'), 'hex'),
      Buffer.from('_narwharf'),
    ]),
  () => randomBytes(200),
  () =>
    Buffer.concat([
      Buffer.from('000084000000000500000000', 'hex'),
      Buffer.from('\x09_narwharf'),
      randomBytes(300),
    ]),
  pointers,
  number =>
    dnsPacket.encode({
      type: 'response',
      answers: [0, 1, 2, 3, 4].flatMap(i => fake(number * 5 + i)),
    }),
  // A hundred questions that ask for as many answers.
  () =>
    dnsPacket.encode({
      type: 'query',
      questions: Array.from({ length: 100 }, () => ({ name: '_narwharf._tcp.local', type: 'PTR' })),
    }),
  number =>
    dnsPacket.encode({
      type: 'response',
      answers: [
        {
          name: `c${number}._nix-serve._tcp.local`,
          type: 'SRV',
          ttl: 120,
          data: { port: (number % 60000) + 1, target: 'c.local' },
        },
        { name: `c${number}._nix-serve._tcp.local`, type: 'TXT', ttl: 120, data: Buffer.from('') },
      ],
    }),
  // Values of the wrong kind where text and numbers are expected.
  () =>
    dnsPacket.encode({
      type: 'response',
      answers: [
        { name: 'y._narwharf._tcp.local', type: 'SRV', ttl: 120, data: { port: 0, target: '.' } },
        {
          name: 'y._narwharf._tcp.local',
          type: 'TXT',
          ttl: 120,
          data: [Buffer.from('pk='), Buffer.from('=x'), Buffer.from('v')],
        },
        { name: '_narwharf._tcp.local', type: 'PTR', ttl: 0, data: '.' },
      ],
    }),
]

function flood(socket) {
  const end = Date.now() + Number(amount)
  let number = 0
  const burst = () => {
    for (let i = 0; i < 64; i++, number++) {
      const packet = KINDS[number % KINDS.length](number)
      socket.send(packet, PORT, GROUP, () => {})
    }
    if (Date.now() < end) return setImmediate(burst)
    console.log(`${number} packets sent`)
    socket.close()
  }
  burst()
}

if (what === 'flood') {
  const socket = createSocket({ type: 'udp4', reuseAddr: true })
  socket.bind(0, '0.0.0.0', () => {
    socket.setMulticastInterface(address)
    flood(socket)
  })
} else {
  const bonjour = new Bonjour({ interface: address, bind: '0.0.0.0' }, () => {})
  bonjour.publish({
    name: 'harmonia',
    type: 'nix-serve',
    port: Number(amount),
    probe: false,
    disableIPv6: true,
  })
  process.on('SIGTERM', () => bonjour.unpublishAll(() => process.exit(0)))
}
