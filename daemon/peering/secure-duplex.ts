import type { Socket } from 'node:net'
import { Duplex } from 'node:stream'
import NoiseSecretStream from '@hyperswarm/secret-stream'
import type { NoiseKeyPair } from '../site.ts'
import { FRAME_MAX_BYTES, HANDSHAKE_FRAME_MAX_BYTES } from './limits.ts'

// A TCP socket with Noise in it, as Node's HTTP takes a socket. NoiseSecretStream is a streamx stream and knows neither
// Node's callbacks nor timeouts; this is the thin layer between.

/**
 * Bytes of one frame. A write becomes one frame, and each frame costs 20 bytes and some microseconds; 64, 128 and 256 KiB
 * cost the same within the noise (bench/peer-stream.ts).
 */
const FRAME_BYTES = 128 * 1024

/** Below this, writes that wait together are copied into one frame: an answer's headers and a small body. */
const MERGE_BYTES = 16 * 1024

/** Bytes that may wait for the kernel, so that the next frame is encrypted while one is on its way. */
export const SOCKET_BUFFER_BYTES = 512 * 1024

/** The methods of a net.Socket that Node's HTTP calls. */
export interface SecureDuplex extends Duplex {
  readonly remoteAddress: string | undefined
  /** Of the socket below: with what the encryption adds. */
  readonly bytesWritten: number
  setTimeout(ms: number, listener?: () => void): this
  setNoDelay(on?: boolean): this
  setKeepAlive(on?: boolean, initialDelayMs?: number): this
  ref(): this
  unref(): this
}

/** A connection after its handshake. */
export interface Secured {
  readonly duplex: SecureDuplex
  readonly remotePublicKey: Buffer
  /** Both ends have the same, and nobody else: what a proof must be bound to. */
  readonly handshakeHash: Buffer
}

/**
 * Looks at the lengths that stand before the frames, and destroys the socket at one that is too long: NoiseSecretStream
 * would allocate 16 MiB at anybody's word.
 */
function guardFrames(socket: Socket, isOpen: () => boolean): void {
  let header = 0
  let seen = 0
  let rest = 0
  socket.prependListener('data', (chunk: Buffer) => {
    let at = 0
    while (at < chunk.length) {
      if (rest > 0) {
        const step = Math.min(rest, chunk.length - at)
        rest -= step
        at += step
        continue
      }
      header += (chunk[at++] as number) * 256 ** seen++
      if (seen < 3) continue
      const limit = isOpen() ? FRAME_MAX_BYTES : HANDSHAKE_FRAME_MAX_BYTES
      if (header > limit) {
        socket.destroy(new Error(`a frame of ${header} bytes`))
        return
      }
      rest = header
      header = 0
      seen = 0
    }
  })
}

/** Runs the handshake over a socket; rejects (and destroys it) when the other end is not whom it should be, or is late. */
export async function secure(
  socket: Socket,
  options: {
    readonly keyPair: NoiseKeyPair
    /** Given by who calls: whom it means to reach. */
    readonly remotePublicKey?: Buffer | undefined
    readonly timeoutMs: number
    /** Called at every arrival of plain bytes. */
    readonly onBytes?: (() => void) | undefined
  },
): Promise<Secured> {
  const { keyPair, remotePublicKey } = options
  const noise = new NoiseSecretStream(remotePublicKey !== undefined, socket, {
    pattern: 'IK',
    keyPair,
    ...(remotePublicKey === undefined ? {} : { remotePublicKey }),
  })
  guardFrames(socket, () => noise.connected)
  let problem: Error | undefined
  noise.on('error', error => (problem ??= error))
  // Before the event loop can give it bytes: what comes with the last handshake message must not be lost.
  const duplex = wrap(noise, socket, options.onBytes)
  const timer = setTimeout(
    () => noise.destroy(new Error('the handshake took too long')),
    options.timeoutMs,
  )
  const open = await noise.opened
  clearTimeout(timer)
  const { remotePublicKey: theirs, handshakeHash } = noise
  if (!open || theirs === null || handshakeHash === null) {
    duplex.destroy()
    throw problem ?? new Error('the handshake failed')
  }
  return { duplex, remotePublicKey: theirs, handshakeHash }
}

function wrap(
  noise: NoiseSecretStream,
  socket: Socket,
  onBytes: (() => void) | undefined,
): SecureDuplex {
  let drained: ((error?: Error | null) => void) | undefined
  const send = (bytes: Buffer, done: (error?: Error | null) => void): void => {
    if (noise.destroyed) return done(new Error('the connection is closed'))
    let more = true
    for (let at = 0; at < bytes.length; at += FRAME_BYTES) {
      const part = bytes.length <= FRAME_BYTES ? bytes : bytes.subarray(at, at + FRAME_BYTES)
      more = noise.write(part)
    }
    if (more) done()
    else drained = done
  }
  const duplex = new Duplex({
    readableHighWaterMark: FRAME_BYTES,
    writableHighWaterMark: SOCKET_BUFFER_BYTES,
    read: () => noise.resume(),
    write: (chunk: Buffer, _encoding, done) => send(chunk, done),
    writev(chunks, done) {
      const parts = chunks.map(({ chunk }) => chunk as Buffer)
      const total = parts.reduce((sum, part) => sum + part.length, 0)
      if (total <= MERGE_BYTES) return send(Buffer.concat(parts, total), done)
      const next = (index: number): void => {
        const part = parts[index]
        if (part === undefined) return done()
        send(part, error => (error ? done(error) : next(index + 1)))
      }
      next(0)
    },
    final(done) {
      noise.end()
      done()
    },
    destroy(error, done) {
      noise.destroy(error)
      const waiting = drained
      drained = undefined
      waiting?.(error ?? new Error('the connection is closed'))
      done(error)
    },
  })
  noise.on('drain', () => {
    const waiting = drained
    drained = undefined
    waiting?.()
  })
  noise.on('data', chunk => {
    onBytes?.()
    if (!duplex.push(chunk)) noise.pause()
  })
  noise.on('end', () => duplex.push(null))
  noise.on('error', error => duplex.destroy(error))
  noise.on('close', () => duplex.destroy())
  // Whoever uses the connection hears of the error too; without anybody it must not end the process.
  duplex.on('error', () => {})
  socket.on('timeout', () => duplex.emit('timeout'))
  Object.defineProperty(duplex, 'bytesWritten', { get: () => socket.bytesWritten })
  const secureDuplex = Object.assign(duplex as Duplex & { readonly bytesWritten: number }, {
    remoteAddress: socket.remoteAddress,
    setTimeout(ms: number, listener?: () => void): SecureDuplex {
      socket.setTimeout(ms)
      if (listener !== undefined) duplex.once('timeout', listener)
      return secureDuplex
    },
    setNoDelay(on?: boolean): SecureDuplex {
      socket.setNoDelay(on)
      return secureDuplex
    },
    setKeepAlive(on?: boolean, initialDelayMs?: number): SecureDuplex {
      socket.setKeepAlive(on, initialDelayMs)
      return secureDuplex
    },
    ref(): SecureDuplex {
      socket.ref()
      return secureDuplex
    },
    unref(): SecureDuplex {
      socket.unref()
      return secureDuplex
    },
  })
  return secureDuplex
}
