import type { IncomingMessage } from 'node:http'
import type { Audience } from '../substitution/candidates.ts'

/** Headers a proxy adds: behind one, a loopback address says nothing about who asks. */
export const PROXY_HEADERS = ['x-forwarded-for', 'forwarded', 'via', 'x-real-ip'] as const

/** Nix before 2.4 has no zstd and gzip decoder; its User-Agent ends in `Nix/<version>`. */
const LEGACY_AGENT = /\bNix\/(?:1\.|2\.[0-3](?:\D|$))/

/** Whether an address as Node writes it (IPv4, IPv6, IPv4 in IPv6) is this machine's loopback. */
export function isLoopback(address: string | undefined): boolean {
  if (address === undefined) return false
  return (
    address === '127.0.0.1' ||
    address === '::1' ||
    /^(?:::ffff:)?127(?:\.\d{1,3}){3}$/.test(address)
  )
}

/** Whether a User-Agent is of such a Nix. */
export function isLegacyAgent(userAgent: string | undefined): boolean {
  return userAgent !== undefined && LEGACY_AGENT.test(userAgent)
}

/** What a narwharf says of itself when it asks for somebody else (holders/upstream-transport.ts). */
const NARWHARF_VIA = /\bnarwharf\b/

/** Who asks, from the connection and the headers. */
export function audienceOf(request: IncomingMessage): Audience {
  const { headers, socket } = request
  return {
    loopback:
      isLoopback(socket.remoteAddress) && PROXY_HEADERS.every(name => headers[name] === undefined),
    legacy: isLegacyAgent(headers['user-agent']),
    // It asked everybody it knows itself, and asking back would go round for ever.
    ...(NARWHARF_VIA.test(headers.via ?? '') && { nearOnly: true }),
  }
}
