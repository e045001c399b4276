// Raydiance's page: make samples, watch them come, turn them, take them along, see what they were made from.
import * as api from "./api.js";
import { byId, element, save } from "./dom.js";
import { chain } from "./lineage.js";
import { followTheme } from "./theme.js";

const FORMATS = ["glb", "ply", "obj", "stl", "png", "mp4", "webp", "latent"];
const LARGEST_SEED = 2n ** 63n - 1n;

const state = { plans: [], solvers: [], callMs: 0, samples: [], chosen: null, busy: new Map(), viewer: null, turned: false };

// ---- what can be asked for --------------------------------------------------------------------------------

async function connect() {
  try {
    const [{ models }, told] = await Promise.all([api.json("v1/models"), api.json("v1/plans")]);
    state.plans = told.plans;
    state.solvers = told.solvers;
    state.callMs = told.call_ms;
    offer(models[0]);
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

function offer(model) {
  byId("model-name").textContent = model.bundle;
  byId("category-field").hidden = model.categories.length === 0;
  byId("category").replaceChildren(...model.categories.map((name) => element("option", { value: name }, name)));
  const tuned = state.plans.map((plan) =>
    element("option", { value: plan.name }, `${plan.name} · ${plan.nfe} calls${plan.stochastic ? " · draws noise" : ""}`),
  );
  const free = state.solvers.map((solver) => element("option", { value: solver.name }, solver.name));
  byId("plan").replaceChildren(
    element("optgroup", { label: "Of this model" }, ...tuned),
    element("optgroup", { label: "Any number of steps" }, ...free),
  );
  byId("plan").value = model.default_plan;
  estimate();
  trace(model);
}

/** The chain of the model, which every sample of it shares. */
async function trace(model) {
  const sample = `${model.bundle_sha256.slice(0, 12)}~${model.default_plan}~0`;
  const lineage = await api.json(`v1/samples/${sample}/lineage`).catch(() => null);
  if (lineage) byId("model-chain").replaceChildren(...chain(lineage).slice(1));
}

function estimate() {
  const solver = state.solvers.find((each) => each.name === byId("plan").value);
  const plan = state.plans.find((each) => each.name === byId("plan").value);
  const steps = byId("steps");
  steps.disabled = !solver;
  const calls = solver ? steps.valueAsNumber * solver.calls_per_step - (solver.calls_per_step - 1) : (plan?.nfe ?? 0);
  byId("steps-value").textContent = solver ? steps.value : calls ? `${calls} calls` : "";
  const seconds = (calls * state.callMs) / 1000;
  byId("estimate").textContent = calls
    ? `About ${seconds < 0.1 ? "0.1" : seconds.toPrecision(2)} s on the network when nothing else runs.`
    : "\u00a0";
}

function wanted() {
  const text = byId("seed").value.trim();
  const valid = /^[0-9]{1,19}$/.test(text) && BigInt(text) <= LARGEST_SEED;
  byId("seed").setAttribute("aria-invalid", String(!valid));
  if (!valid) {
    byId("seed").focus();
    throw new api.Problem(0, { detail: "A seed is a whole number from 0 to 9223372036854775807." });
  }
  const body = { plan: byId("plan").value };
  if (!byId("steps").disabled) body.steps = byId("steps").valueAsNumber;
  if (!byId("category-field").hidden) body.category = byId("category").value;
  const count = byId("count").valueAsNumber;
  return Array.from({ length: count }, (_, i) => ({ seed: String(BigInt(text) + BigInt(i)), body }));
}

// ---- making samples -----------------------------------------------------------------------------------------

function start() {
  complain(null);
  try {
    const asked = wanted();
    const made = asked.map(({ seed, body }) => add(seed, body));
    choose(made[0]);
    made.forEach(run);
  } catch (problem) {
    complain(problem);
  }
}

function add(seed, body) {
  const tile = element("button", { type: "button", class: "tile", role: "option", "aria-selected": "false", "aria-label": `seed ${seed}, being made` });
  tile.append(element("img", { alt: "" }), element("span", {}, seed), element("i"));
  tile.firstChild.hidden = true;
  const sample = { seed, body, tile, steps: 0, step: 0, preview: null, glb: null, info: null, lineage: null, failed: null };
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
    // seeds may be larger than a double holds, so the number is written as it is
    const request = JSON.stringify(sample.body).replace(/^\{/, `{"seed":${sample.seed},`);
    const done = await api.make(request, (step) => advance(sample, step), giveUp.signal);
    const { blob } = await api.file(done.result.replace(/^\//, ""), giveUp.signal);
    sample.glb = await blob.arrayBuffer();
    sample.info = done.samples[0];
    sample.seconds = (performance.now() - began) / 1000;
    sample.bytes = blob.size;
    sample.tile.setAttribute("aria-label", `seed ${sample.seed}, plan ${sample.info.plan}`);
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
  byId("stage").setAttribute("aria-label", `3D viewer: seed ${sample.seed}, plan ${sample.info.plan}. Arrow keys turn it.`);
  byId("status").replaceChildren("seed ", element("b", {}, sample.seed));
  describe(sample, triangles);
}

async function describe(sample, triangles) {
  const { info } = sample;
  const facts = {
    Seed: sample.seed, // as text: a double cannot hold all seeds
    Category: info.category,
    Plan: info.plan,
    "Network calls": sample.steps || null,
    Time: `${sample.seconds.toFixed(sample.seconds < 10 ? 2 : 1)} s`,
    Triangles: triangles.toLocaleString("en"),
    Size: `${(sample.bytes / 1e3).toFixed(0)} kB`,
  };
  const rows = Object.entries(facts).filter(([, value]) => value !== null);
  byId("table").replaceChildren(...rows.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))));
  byId("sample-id").textContent = info.id;
  byId("copied").textContent = "copy";
  byId("no-facts").hidden = true;
  byId("sample").hidden = false;
  document.body.dataset.shown = info.id;
  try {
    sample.lineage ??= await api.json(info.lineage.replace(/^\//, ""));
    if (state.chosen === sample) byId("chain").replaceChildren(...chain(sample.lineage));
  } catch (problem) {
    if (state.chosen === sample) byId("chain").replaceChildren(element("li", { class: "missing" }, problem.message));
  }
}

async function download(format, button) {
  const sample = state.chosen;
  button.setAttribute("aria-busy", "true");
  try {
    if (format === "glb") save(new Blob([sample.glb], { type: "model/gltf-binary" }), `${sample.info.id.replaceAll("~", "-")}.glb`);
    else {
      const { blob, name } = await api.file(`${sample.info.url.replace(/^\//, "")}?format=${format}&size=256`);
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

function roll() {
  byId("seed").value = String(crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000);
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
  byId("plan").addEventListener("change", estimate);
  byId("steps").addEventListener("input", estimate);
  byId("count").addEventListener("input", () => {
    byId("count-value").textContent = byId("count").value;
  });
  byId("dice").addEventListener("click", roll);
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
