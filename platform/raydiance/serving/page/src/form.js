// What can be asked for: of which model, from noise, from a part of a shape or from a picture, and how.
import * as api from "./api.js";
import { byId, element, readAsBase64 } from "./dom.js";

const LARGEST_SEED = 2n ** 63n - 1n;
const MOST = { samples: 8, completions: 4, reconstructions: 4 }; // uploads are worked on one after the other
const MESHES = ["glb", "obj", "ply", "stl"];
const SIDES = { lower: [2, -1], upper: [2, 1], left: [0, -1], right: [0, 1], front: [1, -1], back: [1, 1] };

const offered = { models: [], model: null, plans: [], solvers: [], callMs: 0 };
const mode = () => document.querySelector("input[name=mode]:checked").value;
const text = () => (byId("text-field").hidden ? "" : byId("text").value.trim());
const category = () => (byId("category-field").hidden ? "" : byId("category").value);

class Missing extends api.Problem {
  constructor(field, detail) {
    super(0, { detail });
    field.setAttribute("aria-invalid", "true");
    field.focus();
  }
}

/** Fills the form for the models that are served; `told(model)` hears of the one that is chosen. */
export async function offer(told) {
  offered.models = (await api.json("v1/models")).models;
  byId("which").replaceChildren(...offered.models.map(({ name }) => element("option", { value: name }, name)));
  byId("which-field").hidden = offered.models.length < 2;
  byId("which").onchange = () => offerModel(byId("which").value, told);
  await offerModel(offered.models[0].name, told);
}

async function offerModel(name, told) {
  const model = offered.models.find((each) => each.name === name);
  const plans = await api.json(`v1/plans?model=${encodeURIComponent(name)}`);
  Object.assign(offered, { model, plans: plans.plans, solvers: plans.solvers, callMs: plans.call_ms });
  byId("category-field").hidden = model.categories.length === 0;
  byId("category").replaceChildren(
    ...model.categories.map((each) => element("option", { value: each }, each)),
    element("option", { value: "" }, "any"),
  );
  byId("text-field").hidden = model.words.length === 0;
  const tuned = offered.plans.map((plan) =>
    element("option", { value: plan.name }, `${plan.name} · ${plan.nfe} calls${plan.stochastic ? " · draws noise" : ""}`),
  );
  const free = offered.solvers.map((solver) => element("option", { value: solver.name }, solver.name));
  byId("plan").replaceChildren(
    element("optgroup", { label: "Of this model" }, ...tuned),
    element("optgroup", { label: "Any number of steps" }, ...free),
  );
  byId("plan").value = model.default_plan;
  arrange();
  estimate();
  told(model);
}

/** Shows the fields that have an effect on what is asked for now. */
function arrange() {
  const now = mode();
  for (const field of document.querySelectorAll("[data-mode]")) field.hidden = field.dataset.mode !== now;
  const led = Boolean(category() || text());
  byId("guidance-field").hidden = now === "reconstructions" || (byId("category-field").hidden && byId("text-field").hidden);
  byId("guidance").disabled = !led;
  const scale = byId("guidance").valueAsNumber;
  byId("guidance-value").textContent = led && scale > 1 ? `${scale} times` : "as learnt";
  const unknown = (text().toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? []).filter((word) => !offered.model?.words.includes(word));
  byId("text-note").textContent = unknown.length
    ? `Not among its words: ${[...new Set(unknown)].join(", ")}`
    : `It knows ${offered.model?.words.slice(0, 12).join(", ")} ...`;
  byId("count").max = MOST[now];
  byId("count-value").textContent = byId("count").value;
  for (const name of ["keep-share", "azimuth", "elevation"]) {
    byId(`${name}-value`).textContent = `${byId(name).value}${name === "keep-share" ? " %" : "°"}`;
  }
}

function estimate() {
  const solver = offered.solvers.find((each) => each.name === byId("plan").value);
  const plan = offered.plans.find((each) => each.name === byId("plan").value);
  const steps = byId("steps");
  steps.disabled = !solver;
  const calls = solver ? steps.valueAsNumber * solver.calls_per_step - (solver.calls_per_step - 1) : (plan?.nfe ?? 0);
  byId("steps-value").textContent = solver ? steps.value : calls ? `${calls} calls` : "";
  const seconds = (calls * offered.callMs) / 1000;
  byId("estimate").textContent = calls
    ? `About ${seconds < 0.1 ? "0.1" : seconds.toPrecision(2)} s on the network when nothing else runs.`
    : "\u00a0";
}

/** The requests that the form asks for: [{seed, path, body}]. Throws a Problem about what is missing. */
export async function wanted() {
  for (const field of document.querySelectorAll("[aria-invalid=true]")) field.removeAttribute("aria-invalid");
  const seed = byId("seed").value.trim();
  if (!/^[0-9]{1,19}$/.test(seed) || BigInt(seed) > LARGEST_SEED) {
    throw new Missing(byId("seed"), "A seed is a whole number from 0 to 9223372036854775807.");
  }
  const body = { plan: byId("plan").value };
  if (offered.model !== offered.models[0]) body.model = offered.model.name;
  if (!byId("steps").disabled) body.steps = byId("steps").valueAsNumber;
  if (category()) body.category = category();
  if (text()) body.text = text();
  const guidance = byId("guidance");
  if (!byId("guidance-field").hidden && !guidance.disabled && guidance.valueAsNumber > 1) body.guidance = guidance.valueAsNumber;
  if (mode() === "completions") Object.assign(body, await shape());
  if (mode() === "reconstructions") Object.assign(body, await picture());
  const count = byId("count").valueAsNumber;
  return Array.from({ length: count }, (_, i) => ({ seed: String(BigInt(seed) + BigInt(i)), path: `v1/${mode()}`, body }));
}

async function shape() {
  const [file] = byId("shape").files;
  const ending = file?.name.split(".").pop().toLowerCase();
  if (!file || ![...MESHES, "safetensors"].includes(ending)) {
    throw new Missing(byId("shape"), "Choose a mesh (GLB, OBJ, PLY, STL), or the latent of a sample of this model.");
  }
  const [axis, side] = SIDES[byId("keep-side").value];
  const keep = { lower: [-1, -1, -1], upper: [1, 1, 1] };
  const cut = side * (1 - (2 * byId("keep-share").valueAsNumber) / 100);
  keep[side < 0 ? "upper" : "lower"][axis] = cut;
  const data = await readAsBase64(file);
  return ending === "safetensors" ? { latent: data, keep } : { mesh: { format: ending, data }, keep };
}

async function picture() {
  const [file] = byId("image").files;
  if (!file) throw new Missing(byId("image"), "Choose a square picture of one object.");
  const view = { azimuth_degrees: byId("azimuth").valueAsNumber, elevation_degrees: byId("elevation").valueAsNumber };
  return { image: await readAsBase64(file), view };
}

export function roll() {
  byId("seed").value = String(crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000);
}

export function listenForm() {
  byId("make").addEventListener("input", arrange);
  byId("make").addEventListener("change", estimate);
  byId("steps").addEventListener("input", estimate);
  byId("dice").addEventListener("click", roll);
}
