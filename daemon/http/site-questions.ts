import type { Holder } from '../holders/holder.ts'

// What no index tells, only the peers themselves: which path a derivation's output came to, whose debug file that is.

/** Peers that are asked one question; a site is far smaller. */
const ASKED_MAX = 32

/** How long their answers are waited for, ms: those of a LAN take a few, and Nix waits meanwhile. */
const BUDGET_MS = 1000

/** Questions at a time: each is a request to every peer. */
const RUNNING_MAX = 16

/** Puts a question to all of them side by side. */
export interface SiteQuestions {
  /** The answers that came in time, in the order of the holders; none when too many questions run. */
  ask<T>(
    holders: readonly Holder[],
    question: (holder: Holder) => Promise<T | undefined>,
  ): Promise<readonly T[]>
}

/** Makes the desk where questions are counted. */
export function createSiteQuestions(budgetMs = BUDGET_MS): SiteQuestions {
  let running = 0
  return {
    async ask<T>(
      holders: readonly Holder[],
      question: (holder: Holder) => Promise<T | undefined>,
    ): Promise<readonly T[]> {
      if (running >= RUNNING_MAX || holders.length === 0) return []
      running++
      let timer: NodeJS.Timeout | undefined
      const late = new Promise<undefined>(resolve => {
        timer = setTimeout(resolve, budgetMs, undefined)
      })
      // One that fails has no answer.
      const one = (holder: Holder) => question(holder).catch(() => undefined)
      try {
        const answers = await Promise.all(
          holders.slice(0, ASKED_MAX).map(holder => Promise.race([one(holder), late])),
        )
        return answers.filter(answer => answer !== undefined)
      } finally {
        clearTimeout(timer)
        running--
      }
    },
  }
}
