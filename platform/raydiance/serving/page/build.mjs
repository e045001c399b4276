// Builds dist/ from src/: node build.mjs. What it was built from is written into dist/built.json, so that a test
// can tell a stale build without Node.
import { createHash } from "node:crypto";
import { cp, mkdir, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { build } from "esbuild";

const FONTS = {
  "inter.woff2": "@fontsource-variable/inter/files/inter-latin-wght-normal.woff2",
  "mono.woff2": "@fontsource/jetbrains-mono/files/jetbrains-mono-latin-400-normal.woff2",
};
const LICENSED = ["three", "@fontsource-variable/inter", "@fontsource/jetbrains-mono"];

const sha256 = (...parts) => parts.reduce((hash, part) => hash.update(part), createHash("sha256")).digest("hex");

async function digestOfSources() {
  const names = (await readdir("src")).sort().map((name) => `src/${name}`);
  const parts = [];
  for (const name of ["build.mjs", "package-lock.json", ...names]) {
    parts.push(`${name}\n`, sha256(await readFile(name)), "\n");
  }
  return sha256(...parts);
}

await rm("dist", { recursive: true, force: true });
await mkdir("dist");
await build({
  entryPoints: ["src/app.js", "src/viewer.js", "src/page.css"],
  outdir: "dist",
  bundle: true,
  minify: true,
  format: "esm",
  target: ["es2022"],
  external: ["./viewer.js", "*.woff2"],
  legalComments: "none",
});
for (const name of ["index.html", "icon.svg"]) await cp(`src/${name}`, `dist/${name}`);
for (const [name, from] of Object.entries(FONTS)) await cp(`node_modules/${from}`, `dist/${name}`);

const texts = [];
for (const name of LICENSED) {
  const { version } = JSON.parse(await readFile(`node_modules/${name}/package.json`, "utf8"));
  texts.push(`${name} ${version}\n\n${(await readFile(`node_modules/${name}/LICENSE`, "utf8")).trim()}\n`);
}
await writeFile("dist/licenses.txt", texts.join(`\n${"-".repeat(80)}\n\n`));

const files = {};
for (const name of (await readdir("dist")).sort()) files[name] = sha256(await readFile(`dist/${name}`));
await writeFile("dist/built.json", `${JSON.stringify({ sources: await digestOfSources(), files }, null, 1)}\n`);
