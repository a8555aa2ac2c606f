import type { WhoHasResult, WhyNotReply } from '../../protocol/api.ts'
import { hashPartOf, type StorePath } from '../../protocol/store-path.ts'
import { permits, type Finding } from './candidates.ts'
import type { Substitution } from './substitution.ts'

type HolderAnswer = WhyNotReply['holders'][number]

const list = (names: readonly string[]) => names.join(', ')

/** Why (or that) this holder's copy is offered, as one verdict and one plain sentence. */
function explain(finding: Finding, substitution: Substitution): HolderAnswer {
  const { holder, holding, decision } = finding
  const who = {
    id: holder.id,
    ...(holder.title === undefined ? {} : { title: holder.title }),
  }
  if (finding.problem !== undefined) {
    return { ...who, verdict: 'holder-down', detail: finding.problem }
  }
  if (holding === undefined || decision === undefined) {
    return { ...who, verdict: 'absent', detail: 'does not have it' }
  }
  const damage = substitution.verdicts.problem(holder, holding)
  if (damage !== undefined) return { ...who, verdict: 'nar-bad', detail: damage }
  if (!decision.offered) {
    switch (decision.reason) {
      case 'denied':
        return { ...who, verdict: 'denied', detail: 'a rule of share.deny covers its name' }
      case 'ca-mismatch':
        return {
          ...who,
          verdict: 'ca-mismatch',
          detail:
            'it claims to be content-addressed, but its path is not the one its content gives',
        }
      case 'no-trusted-signature':
        return {
          ...who,
          verdict: 'no-trusted-signature',
          detail:
            decision.untrustedKeys.length > 0
              ? `signed only by ${list(decision.untrustedKeys)}, which is not trusted or did not match`
              : 'not signed, not content-addressed, and not built on this host',
        }
    }
  }
  if (finding.contradiction !== undefined) {
    return { ...who, verdict: 'contradicted', detail: finding.contradiction }
  }
  const why = {
    signed: `signed by ${decision.key}`,
    'content-addressed': 'content-addressed, so it proves itself',
    'built-here': 'built on this host, which vouches for it',
    vouched: 'vouched for by trust.store = "all"',
    member: 'its host, a member of the site, vouches for it (trust.members)',
  }[decision.reason]
  const lan = permits(decision, { loopback: false, legacy: false }, substitution)
  return lan
    ? { ...who, verdict: 'offered', detail: why }
    : {
        ...who,
        verdict: 'not-public',
        detail: `${why}; offered on this machine only (share.withLan is "${substitution.withLan}")`,
      }
}

const HINTS: Partial<Record<HolderAnswer['verdict'], string>> = {
  'no-trusted-signature':
    'add the key that signed it to trust.publicKeys, sign it there, or set trust.store to "all" if you vouch for everything in this store',
  contradicted:
    'build it here, or have it signed with a key of trust.publicKeys on the host that has the right one',
  denied: 'change share.deny in the configuration',
  'ca-mismatch': 'the copy is damaged or forged: nix-store --verify-path it, and fetch it again',
  'nar-bad': 'the copy is damaged: nix-store --repair-path it, or replace the file in the cache',
  'holder-down':
    'plug the drive, if it is on one; narwharf doctor says what keeps other holders from being read',
  absent: 'build it, fetch it, or plug a drive that has it',
}

/** Worst first: which refusal to speak of when there are several. */
const ORDER: readonly HolderAnswer['verdict'][] = [
  'nar-bad',
  'ca-mismatch',
  'denied',
  'contradicted',
  'no-trusted-signature',
  'holder-down',
  'absent',
]

/** The drives that have a path and are not plugged, of what is known of who has it. */
export const drivesAway = ({ matches }: WhoHasResult): HolderAnswer[] =>
  matches
    .flatMap(match => match.holders)
    .filter(({ kind, up }) => kind === 'drive' && !up)
    .map(({ id, name, lastSeen }) => ({
      ...{ id, title: `drive ${name ?? id}`, verdict: 'holder-down' as const },
      detail: `it is on a drive that is not plugged${lastSeen === undefined ? '' : ` (last seen here on ${lastSeen})`}`,
    }))

/** Says whether this host's substituter offers a path, and holder by holder why or why not. */
export async function explainWhyNot(
  substitution: Substitution,
  storePath: StorePath,
  away: readonly HolderAnswer[] = [],
): Promise<WhyNotReply> {
  const findings = await substitution.findings(hashPartOf(storePath))
  const holders = [...findings.map(finding => explain(finding, substitution)), ...away]
  const named = findings.find(
    ({ holding }) => holding !== undefined && holding.info.storePath !== storePath,
  )
  const offeredOnLan = holders.some(({ verdict }) => verdict === 'offered')
  const offeredOnLoopback = offeredOnLan || holders.some(({ verdict }) => verdict === 'not-public')
  const shown = named?.holding?.info.storePath ?? storePath
  if (offeredOnLoopback) {
    return {
      storePath: shown,
      offeredOnLoopback,
      offeredOnLan,
      summary: offeredOnLan
        ? 'it is offered, to this machine and to the network'
        : 'it is offered to this machine only, not to the network',
      ...(offeredOnLan
        ? {}
        : { hint: 'sign it with a key of trust.publicKeys, or set share.withLan to "all"' }),
      holders,
    }
  }
  const worst = ORDER.map(verdict => holders.find(holder => holder.verdict === verdict)).find(
    holder => holder !== undefined,
  )
  const summary =
    worst === undefined || worst.verdict === 'absent'
      ? 'no holder has it'
      : `${worst.title ?? worst.id} has it, but: ${worst.detail}`
  const hint = HINTS[worst?.verdict ?? 'absent']
  return {
    storePath: shown,
    offeredOnLoopback,
    offeredOnLan,
    summary:
      worst?.verdict === 'holder-down'
        ? `${worst.title ?? worst.id} cannot be asked: ${worst.detail}`
        : summary,
    ...(hint === undefined ? {} : { hint }),
    holders,
  }
}
