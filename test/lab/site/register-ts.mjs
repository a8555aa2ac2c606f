// Lets plain Node run the lab's TypeScript: node --import ./test/lab/site/register-ts.mjs FILE.ts
// Types are taken away file by file and not checked, which `npx tsc --noEmit` does.
import { register } from 'node:module'

register('./load-ts.mjs', import.meta.url)
