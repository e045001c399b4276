// A sample's lineage as a chain: what it was made from, down to the data set and the code.
import { element } from "./dom.js";

const TITLES = {
  bundle: "Model bundle",
  evaluation: "Evaluation",
  plans: "Tuned sampling plans",
  denoiser: "Diffusion model",
  latents: "Latents",
  autodecoder: "Autodecoder",
  views: "Rendered views",
  meshes: "Data set",
};

const size = (bytes) =>
  bytes < 1e3 ? `${bytes} B` : bytes < 1e6 ? `${(bytes / 1e3).toFixed(0)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;

/** The entries of the list, the sample first, the code last; `made` has the sample's seed as text. */
export function chain(lineage, made = null) {
  const { sample, chain: links, code_version: code } = lineage;
  const told = `seed ${made?.seed ?? sample.seed}, plan ${made?.body.plan ?? sample.plan}`;
  const first = element("li", {}, element("strong", {}, "This sample"), element("small", {}, told));
  const last = element("li", {}, element("strong", {}, "Code"), element("small", {}, code));
  return [first, ...links.map(entry), last];
}

function entry(link) {
  const title = TITLES[link.kind] ?? link.kind;
  if (link.missing) {
    return element("li", { class: "missing" }, element("strong", {}, `${title} is missing`), element("small", {}, link.missing));
  }
  const made = link.created ? new Date(link.created).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" }) : "";
  const facts = {
    "SHA-256": link.sha256,
    Code: link.code_version,
    Seeds: Object.entries(link.seeds).map(([name, seed]) => `${name} ${seed}`).join(", "),
    Run: link.run_page ? element("a", { href: link.run_page, target: "_blank", rel: "noreferrer" }, link.run) : link.run,
    From: link.parents.join(", "),
  };
  const rows = Object.entries(facts)
    .filter(([, value]) => value)
    .map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value)));
  const summary = element(
    "summary",
    {},
    element("strong", {}, title),
    element("small", {}, link.key),
    element("small", {}, [made, `${link.files} files, ${size(link.bytes)}`].filter(Boolean).join(" · ")),
  );
  return element("li", {}, element("details", {}, summary, element("dl", {}, ...rows)));
}
