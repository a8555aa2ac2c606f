import type { Socket } from 'node:dgram'
import type { EventEmitter } from 'node:events'
import Bonjour from 'bonjour-service'
import type { MdnsPacket, MdnsRecord } from './mdns-records.ts'

// The part of bonjour-service that is used: it announces and answers. Its browser is not: it keeps every service that any
// packet names for ever, searches that list for each packet, and drops live services when told to expire old ones.

/** A message on its way out: records to announce, or an answer. */
export type OutgoingMdns =
  | readonly MdnsRecord[]
  | { readonly answers: readonly MdnsRecord[]; readonly additionals?: readonly MdnsRecord[] }

/** What a message's sender hears. */
export type Sent = (error?: Error | null) => void

/** The multicast-dns behind a bonjour instance: emits `ready`, `response`, `error` and `warning`. */
export interface Mdns extends EventEmitter<{
  ready: []
  response: [MdnsPacket, { readonly address: string }]
  error: [Error]
  warning: [Error]
}> {
  query(questions: { readonly name: string; readonly type: string }[], done: Sent): void
  respond(message: OutgoingMdns, ...rest: readonly unknown[]): void
}

/** A service to be announced, as bonjour takes it. */
export interface Announcement {
  readonly name: string
  readonly type: string
  readonly port: number
  readonly host: string
  readonly txt: Readonly<Record<string, string>>
  readonly probe: false
  readonly disableIPv6: true
}

/** A bonjour instance. */
export interface Responder {
  readonly server: { readonly mdns: Mdns }
  publish(announcement: Announcement): unknown
  unpublishAll(done: () => void): void
  destroy(done: () => void): void
}

/** Where a bonjour instance speaks. */
export interface ResponderOptions {
  /** The address whose interface sends and hears. */
  readonly interface: string
  /** Always any address: a socket bound to one hears no multicast. */
  readonly bind: '0.0.0.0'
  readonly socket: Socket
}

/** Makes a bonjour instance; an option of the room, so that tests need no network. */
export type MakeResponder = (
  options: ResponderOptions,
  onError: (error: Error) => void,
) => Responder

/** The real one. Its types hide what multicast-dns takes and its `server`; a test in the lab holds that both are there. */
export const makeBonjour: MakeResponder = (options, onError) =>
  new Bonjour({ ...options } as object, onError) as unknown as Responder
