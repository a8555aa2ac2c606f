import type { FastifyInstance } from 'fastify'
import type { StatusReply } from '../../protocol/api.ts'
import type { ApiSources } from './api.ts'
import { audienceOf } from './audience.ts'

const ESCAPES: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
}

/** Text as text in HTML, whatever stands in it. */
export function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, character => ESCAPES[character] ?? '')
}

const STYLE = `:root{color-scheme:light dark}body{font:1rem/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem}
pre{overflow-x:auto;padding:.75rem;border:1px solid;border-radius:.3rem}table{border-collapse:collapse}td,th{text-align:left;padding:.2rem 1rem .2rem 0}`

function holdersTable(status: StatusReply): string {
  const rows = status.holders.map(holder => {
    const state = holder.up ? 'up' : `down: ${holder.problem ?? 'unknown'}`
    const paths = holder.paths === undefined ? 'counting' : String(holder.paths)
    return `<tr><td>${escapeHtml(holder.id)}</td><td>${escapeHtml(state)}</td><td>${paths}</td></tr>`
  })
  return `<h2>What it holds</h2>
<table><thead><tr><th>holder</th><th>state</th><th>paths</th></tr></thead><tbody>${rows.join('')}</tbody></table>`
}

/** The page at `/`: what this is and the lines to use it. Strangers on the network see no more than those lines. */
export function renderLanding(
  status: StatusReply,
  lines: readonly string[],
  local: boolean,
): string {
  const name = escapeHtml(status.hostName)
  return `<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>narwharf on ${name}</title><link rel="stylesheet" href="/landing.css"></head><body><main>
<h1>narwharf on ${name}</h1><p>This is a Nix binary cache. To use it, add these lines to nix.conf:</p>
<pre>${escapeHtml(lines.join('\n'))}</pre>${local ? holdersTable(status) : ''}</main></body></html>\n`
}

/** Adds `/`, with a policy under which nothing from elsewhere runs or frames it. */
export function addLanding(server: FastifyInstance, sources: ApiSources): void {
  server.get('/landing.css', async (_request, reply) =>
    reply.header('Content-Type', 'text/css').send(STYLE),
  )
  server.get('/', async (request, reply) =>
    reply
      .headers({
        'Content-Type': 'text/html; charset=utf-8',
        'Content-Security-Policy': "default-src 'none'; style-src 'self'; frame-ancestors 'none'",
        'X-Content-Type-Options': 'nosniff',
        'Referrer-Policy': 'no-referrer',
      })
      .send(
        renderLanding(sources.status(), sources.nixConf().lines, audienceOf(request.raw).loopback),
      ),
  )
}
