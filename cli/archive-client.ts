import { request, type ClientRequest, type IncomingMessage } from 'node:http'
import { createInterface } from 'node:readline'
import type { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import type { ExportEvent, ExportWish, ImportEvent } from '../protocol/api-archives.ts'
import { createFrameReader } from '../protocol/archive-frames.ts'
import { brokeOff, isCode, mayNotOpen, notRunning, readBody, refusal } from './client.ts'
import { CommandError } from './exit.ts'
import type { Settings } from './settings.ts'

// Archives over the control socket: of any length, so neither is ever in memory.

/** What an import is asked beside the archive. */
export interface ImportRequest {
  readonly title: string
  readonly size?: number | undefined
  readonly trust: readonly string[]
}

/** A stream and how much of it comes. */
export interface SideFile {
  readonly stream: Readable
  readonly size: number
}

/** What is asked of the daemon about archives. Each rejects with a {@link CommandError}. */
export interface ArchiveClient {
  importArchive(
    wish: ImportRequest,
    archive: Readable,
    signatures: SideFile | undefined,
    onEvent: (event: ImportEvent) => void,
  ): Promise<void>
  /** Hands on the archive's bytes, each good until the promise is kept, and what is said of it. */
  exportPaths(
    wish: ExportWish,
    onBytes: (bytes: Buffer) => Promise<void>,
    onEvent: (event: ExportEvent) => Promise<void> | void,
  ): Promise<void>
}

/** How long a daemon may say nothing: it sends an empty line every ten seconds where work takes long. */
const SILENCE_MS = 120_000

interface Posted {
  readonly sent: ClientRequest
  readonly reply: Promise<IncomingMessage>
}

function post(socketPath: string, path: string, type: string): Posted {
  const sent = request({ socketPath, path, method: 'POST', headers: { 'content-type': type } })
  const reply = new Promise<IncomingMessage>((resolve, reject) => {
    sent.once('response', resolve).once('error', reject)
  })
  reply.catch(() => undefined)
  sent.setTimeout(SILENCE_MS, () =>
    sent.destroy(
      new CommandError(
        `the daemon has said nothing for ${SILENCE_MS / 1000} s`,
        'look at its log: journalctl -u narwharf',
      ),
    ),
  )
  return { sent, reply }
}

/** The first control socket at which a daemon answers: a stream can only be sent once. */
async function findSocket(settings: Settings): Promise<string> {
  let forbidden: string | undefined
  for (const socketPath of settings.sockets) {
    try {
      await new Promise<void>((resolve, reject) => {
        const asked = request({ socketPath, path: '/health' }, reply => {
          reply.resume().once('end', resolve).once('error', reject)
        })
        asked.once('error', reject).end()
      })
      return socketPath
    } catch (error) {
      if (isCode(error, 'EACCES', 'EPERM')) forbidden ??= socketPath
      else if (!isCode(error, 'ENOENT', 'ECONNREFUSED', 'ENOTDIR')) throw error
    }
  }
  throw forbidden === undefined ? notRunning(settings) : mayNotOpen(forbidden)
}

const cannotRead = (title: string, error: Error): CommandError =>
  new CommandError(
    `${title} cannot be read: ${error.message}`,
    'look at the drive it lies on; what came of it so far stays, and running it again goes on',
    1,
    error,
  )

async function* joined(first: Readable | undefined, second: Readable): AsyncGenerator<Buffer> {
  if (first !== undefined) yield* first as AsyncIterable<Buffer>
  yield* second as AsyncIterable<Buffer>
}

/** Talks to the daemon over the first of its control sockets that answers. */
export function createArchiveClient(settings: Settings): ArchiveClient {
  return {
    async importArchive({ title, size, trust }, archive, signatures, onEvent) {
      const query = new URLSearchParams([
        ['title', title],
        ...(size === undefined ? [] : [['size', String(size)] as [string, string]]),
        ...(signatures === undefined
          ? []
          : [['signatures', String(signatures.size)] as [string, string]]),
        ...trust.map((pattern): [string, string] => ['trust', pattern]),
      ])
      const socket = await findSocket(settings)
      const { sent, reply } = post(
        socket,
        `/api/v1/import?${query.toString()}`,
        'application/octet-stream',
      )
      let unreadable: CommandError | undefined
      for (const file of [archive, signatures?.stream]) {
        file?.once('error', error => (unreadable ??= cannotRead(title, error)))
      }
      // The answer comes while the archive is on its way, and may end before it does.
      const feeding = pipeline(joined(signatures?.stream, archive), sent).catch(() => undefined)
      let answered = false
      try {
        const answer = await reply
        if (answer.statusCode !== 200) throw refusal(await readBody(answer), answer.statusCode)
        for await (const line of createInterface({ input: answer })) {
          if (line === '') continue
          const event = JSON.parse(line) as ImportEvent
          onEvent(event)
          answered = event.event === 'end' || event.event === 'failed'
        }
      } catch (error) {
        // What went wrong while reading the file is told, not what followed from it.
        if (!answered) throw unreadable ?? brokeOff(error)
      } finally {
        archive.destroy()
        signatures?.stream.destroy()
        sent.destroy()
        await feeding
      }
      if (unreadable !== undefined) throw unreadable
      if (!answered) {
        throw new CommandError(
          'the daemon broke off',
          'run it again: what came of the archive so far is not written twice',
        )
      }
    },
    async exportPaths(wish, onBytes, onEvent) {
      const socket = await findSocket(settings)
      const { sent, reply } = post(socket, '/api/v1/export', 'application/json')
      sent.end(JSON.stringify(wish))
      try {
        const answer = await reply
        if (answer.statusCode !== 200) throw refusal(await readBody(answer), answer.statusCode)
        const read = createFrameReader()
        for await (const chunk of answer as AsyncIterable<Buffer>) {
          for (const frame of read(chunk)) {
            if ('bytes' in frame) await onBytes(frame.bytes)
            else await onEvent(frame.event as ExportEvent)
          }
        }
      } catch (error) {
        throw brokeOff(error)
      } finally {
        sent.destroy()
      }
    },
  }
}
