// Raydiance's page: make samples, watch them come, turn them, take them along, see what they were made from.
import * as api from "./api.js";
import { byId, element, save } from "./dom.js";
import { listenForm, offer, roll, wanted } from "./form.js";
import { chain } from "./lineage.js";
import { followTheme } from "./theme.js";

const FORMATS = ["glb", "ply", "obj", "stl", "png", "mp4", "webp", "latent"];

const state = { samples: [], chosen: null, busy: new Map(), viewer: null, turned: false, modelChain: null };

async function connect() {
  try {
    await offer(introduce);
    byId("health").className = "dot good";
  } catch (problem) {
    byId("health").className = "dot bad";
    byId("model-name").textContent = "not ready";
    if (problem.status === 401) askForKey();
    else {
      complain(problem);
      setTimeout(connect, 3000);
    }
  }
}

/** The chain of the model, which every sample of it shares. */
async function introduce(model) {
  byId("model-name").textContent = model.bundle;
  const sample = `${model.bundle_sha256.slice(0, 12)}~${model.default_plan}~0`;
  state.modelChain = await api.json(`v1/samples/${sample}/lineage`).catch(() => null);
  if (state.modelChain) byId("model-chain").replaceChildren(...chain(state.modelChain).slice(1));
}

// ---- making samples -----------------------------------------------------------------------------------------

async function start() {
  complain(null);
  try {
    const made = (await wanted()).map(add);
    choose(made[0]);
    made.forEach(run);
  } catch (problem) {
    complain(problem);
  }
}

function add({ seed, path, body }) {
  const tile = element("button", { type: "button", class: "tile", role: "option", "aria-selected": "false", "aria-label": `seed ${seed}, being made` });
  tile.append(element("img", { alt: "" }), element("span", {}, seed), element("i"));
  tile.firstChild.hidden = true;
  const sample = { seed, path, body, tile, steps: 0, step: 0, preview: null, glb: null, name: "", info: null, lineage: null, failed: null };
  tile.addEventListener("click", () => choose(sample));
  state.samples.push(sample);
  byId("gallery").append(tile);
  return sample;
}

async function run(sample) {
  const giveUp = new AbortController();
  state.busy.set(sample, giveUp);
  refresh();
  const began = performance.now();
  try {
    const done = await api.make(sample.path, request(sample), (step) => advance(sample, step), giveUp.signal);
    const { blob, name } = await api.file(done.result.replace(/^\//, ""), { signal: giveUp.signal });
    sample.glb = await blob.arrayBuffer();
    sample.name = name;
    sample.info = done.samples[0] ?? null; // what was made of an upload has no name to ask for
    sample.lineage = sample.info ? null : state.modelChain;
    sample.seconds = (performance.now() - began) / 1000;
    sample.bytes = blob.size;
    sample.tile.setAttribute("aria-label", `seed ${sample.seed}, plan ${sample.body.plan}`);
  } catch (problem) {
    sample.failed = problem;
    sample.tile.classList.add("failed");
    sample.tile.setAttribute("aria-label", `seed ${sample.seed}, not made`);
    if (problem.status === 401) askForKey();
    else if (problem.name !== "AbortError") complain(problem);
  }
  state.busy.delete(sample);
  sample.tile.style.setProperty("--done", 0);
  if (state.chosen === sample) await display(sample);
  else if (sample.glb) picture(sample, await (await viewer()).pictureOf(sample.glb.slice(0)));
  refresh();
}

/** Seeds may be larger than a double holds, so the number is written as it is. */
function request(sample, more = {}) {
  return JSON.stringify({ ...sample.body, ...more }).replace(/^\{/, `{"seed":${sample.seed},`);
}

function advance(sample, step) {
  sample.step = step.step;
  sample.steps = step.steps;
  sample.tile.style.setProperty("--done", step.step / step.steps);
  if (step.preview) {
    sample.preview = step.preview;
    picture(sample, step.preview);
  }
  if (state.chosen === sample) watch(sample);
}

function picture(sample, source) {
  sample.tile.firstChild.src = source;
  sample.tile.firstChild.hidden = false;
}

function stop() {
  for (const giveUp of state.busy.values()) giveUp.abort();
}

function refresh() {
  const busy = state.busy.size > 0;
  byId("stop").hidden = !busy;
  document.body.dataset.busy = String(busy);
}

// ---- the stage ----------------------------------------------------------------------------------------------

async function viewer() {
  if (!state.viewer) {
    const { Viewer } = await import("./viewer.js");
    state.viewer ??= new Viewer(byId("stage"));
    shade();
  }
  return state.viewer;
}

function choose(sample) {
  state.chosen = sample;
  for (const each of state.samples) {
    each.tile.setAttribute("aria-selected", String(each === sample));
    each.tile.tabIndex = each === sample ? 0 : -1;
  }
  sample.tile.scrollIntoView({ block: "nearest", inline: "nearest" });
  if (sample.glb || sample.failed) display(sample);
  else watch(sample);
}

function watch(sample) {
  byId("empty").hidden = true;
  byId("stage-box").classList.add("busy");
  byId("preview").hidden = !sample.preview;
  if (sample.preview) byId("preview").src = sample.preview;
  const share = sample.steps ? sample.step / sample.steps : 0;
  byId("progress").firstChild.style.transform = `scaleX(${share})`;
  byId("progress").setAttribute("aria-valuenow", String(Math.round(100 * share)));
  const text = !sample.steps ? "waiting" : share < 1 ? `step ${sample.step} of ${sample.steps}` : "drawing the surface";
  byId("status").replaceChildren("seed ", element("b", {}, sample.seed), ` · ${text}`);
  byId("no-facts").hidden = false;
  byId("sample").hidden = true;
}

async function display(sample) {
  const stage = await viewer();
  if (state.chosen !== sample) return;
  byId("empty").hidden = true;
  byId("stage-box").classList.remove("busy");
  byId("preview").hidden = true;
  if (!sample.glb) {
    stage.clear();
    byId("status").textContent = sample.failed.name === "AbortError" ? `seed ${sample.seed} was stopped` : sample.failed.message;
    return;
  }
  const { triangles } = await stage.show(sample.glb.slice(0));
  if (state.chosen !== sample) return;
  picture(sample, stage.thumbnail());
  sample.tile.classList.add("done");
  byId("stage").setAttribute("aria-label", `3D viewer: seed ${sample.seed}, plan ${sample.body.plan}. Arrow keys turn it.`);
  byId("status").replaceChildren("seed ", element("b", {}, sample.seed));
  describe(sample, triangles);
}

const ORIGINS = { "v1/completions": "a part of a shape", "v1/reconstructions": "a picture" };

async function describe(sample, triangles) {
  const { info, body } = sample;
  const facts = {
    Seed: sample.seed, // as text: a double cannot hold all seeds
    From: ORIGINS[sample.path],
    Category: body.category,
    Text: body.text,
    Guidance: body.guidance,
    Plan: body.steps ? `${body.plan}-${body.steps}` : body.plan,
    "Network calls": sample.steps || null,
    Time: `${sample.seconds.toFixed(sample.seconds < 10 ? 2 : 1)} s`,
    Triangles: triangles.toLocaleString("en"),
    Size: `${(sample.bytes / 1e3).toFixed(0)} kB`,
  };
  const rows = Object.entries(facts).filter(([, value]) => value);
  byId("table").replaceChildren(...rows.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))));
  byId("copy").hidden = !info;
  byId("sample-id").textContent = info?.id ?? "";
  byId("copied").textContent = "copy";
  byId("no-facts").hidden = true;
  byId("sample").hidden = false;
  document.body.dataset.shown = info?.id ?? sample.name;
  try {
    sample.lineage ??= await api.json(info.lineage.replace(/^\//, ""));
    if (state.chosen === sample) byId("chain").replaceChildren(...chain(sample.lineage, sample));
  } catch (problem) {
    if (state.chosen === sample) byId("chain").replaceChildren(element("li", { class: "missing" }, problem.message));
  }
}

async function download(format, button) {
  const sample = state.chosen;
  button.setAttribute("aria-busy", "true");
  try {
    if (format === "glb") save(new Blob([sample.glb], { type: "model/gltf-binary" }), sample.info ? `${sample.info.id.replaceAll("~", "-")}.glb` : sample.name);
    else {
      const drawn = { format, size: 256 };
      const { blob, name } = sample.info
        ? await api.file(`${sample.info.url.replace(/^\//, "")}?${new URLSearchParams(drawn)}`)
        : await api.file(sample.path, { body: request(sample, drawn) });
      save(blob, name);
    }
  } catch (problem) {
    complain(problem);
  }
  button.removeAttribute("aria-busy");
}

// ---- the rest -----------------------------------------------------------------------------------------------

function complain(problem) {
  byId("problem").hidden = !problem;
  byId("problem").textContent = problem?.message ?? "";
}

function askForKey() {
  if (!byId("key-dialog").open) byId("key-dialog").showModal();
}

function shade() {
  state.viewer?.setShadow(document.documentElement.dataset.theme === "dark" ? 0.9 : 0.45);
}

function step(by) {
  const next = state.samples[state.samples.indexOf(state.chosen) + by];
  if (next) choose(next);
}

function turn() {
  state.turned = !state.turned;
  byId("turn").setAttribute("aria-pressed", String(state.turned));
  state.viewer?.setTurning(state.turned);
}

function listen() {
  const changeTheme = followTheme(shade);
  byId("theme").addEventListener("click", changeTheme);
  byId("make").addEventListener("submit", (event) => {
    event.preventDefault();
    start();
  });
  listenForm();
  byId("stop").addEventListener("click", stop);
  byId("turn").addEventListener("click", turn);
  byId("home").addEventListener("click", () => state.viewer?.orbit.home());
  byId("copy").addEventListener("click", async () => {
    await navigator.clipboard.writeText(byId("sample-id").textContent);
    byId("copied").textContent = "copied";
  });
  for (const format of FORMATS) {
    const button = element("button", { type: "button", "data-format": format }, format === "latent" ? "Latent" : format.toUpperCase());
    button.addEventListener("click", () => download(format, button));
    byId("downloads").append(button);
  }
  byId("key-form").addEventListener("submit", () => {
    api.setKey(byId("key").value);
    connect();
  });
  byId("gallery").addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by) {
      step(by);
      state.chosen.tile.focus();
      event.preventDefault();
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || byId("key-dialog").open) return;
    if (event.key === "Escape") return stop();
    const takesEnter = "button, summary, a";
    if (event.target.closest("input, select") || (event.key === "Enter" && event.target.closest(takesEnter))) return;
    const does = {
      Enter: start,
      r: () => {
        roll();
        start();
      },
      t: changeTheme,
      "[": () => step(-1),
      "]": () => step(1),
    }[event.key];
    does?.();
  });
}

listen();
refresh();
connect();
