import type { Registry } from 'prom-client'
import type { ApiSources } from './api.ts'
import type { Counters } from './counters.ts'

/** Prometheus text of what the daemon does; names are documented in docs/http-api.md. */
export interface Metrics {
  read(): Promise<{ readonly contentType: string; readonly text: string }>
}

/**
 * Metrics whose values are read when somebody asks, never pushed on the hot path. Their package is loaded at the first
 * question: with what it brings along it takes as long to load as all of HTTP, and most hosts are never asked.
 */
export function createMetrics(counters: Counters, sources: ApiSources): Metrics {
  let registry: Promise<Registry> | undefined
  return {
    async read() {
      const registered = await (registry ??= register(counters, sources))
      return { contentType: registered.contentType, text: await registered.metrics() }
    },
  }
}

async function register(counters: Counters, sources: ApiSources): Promise<Registry> {
  const { collectDefaultMetrics, Counter, Gauge, Registry } = await import('prom-client')
  const registry = new Registry()
  collectDefaultMetrics({ register: registry, prefix: 'narwharf_' })
  const registers = [registry]

  const counter = (name: string, help: string, value: () => number) => {
    new Counter({
      name,
      help,
      registers,
      collect() {
        this.reset()
        this.inc(value())
      },
    })
  }
  counter('narwharf_narinfo_hits_total', 'narinfos answered with 200', () => counters.narinfos)
  counter('narwharf_narinfo_misses_total', 'narinfos answered with 404', () => counters.misses)
  counter('narwharf_nars_total', 'NAR transfers begun', () => counters.nars)
  counter('narwharf_nars_broken_total', 'NAR transfers ended early', () => counters.narsBroken)
  counter('narwharf_nar_bytes_total', 'bytes of NAR bodies sent', () => counters.narBytes)

  const byHolder = (name: string, help: string, pick: 'paths' | 'narBytes' | 'up') => {
    new Gauge({
      name,
      help,
      labelNames: ['holder', 'kind'],
      registers,
      collect() {
        this.reset()
        for (const holder of sources.status().holders) {
          const value = holder[pick]
          if (value !== undefined) this.set({ holder: holder.id, kind: holder.kind }, Number(value))
        }
      },
    })
  }
  byHolder('narwharf_holder_up', '1 where the holder can be read', 'up')
  byHolder('narwharf_holder_paths', 'store paths held, by the newest inventory', 'paths')
  byHolder('narwharf_holder_nar_bytes', 'sum of their NAR sizes', 'narBytes')

  return registry
}
