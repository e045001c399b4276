// The endpoint as the page uses it: JSON, files, and the events of a sample under way.

const KEY = "raydiance-key";

export class Problem extends Error {
  constructor(status, said) {
    super(said.detail ?? said.title ?? `error ${status}`);
    this.status = status;
    this.title = said.title ?? "Error";
  }
}

export const setKey = (key) => sessionStorage.setItem(KEY, key);

function headers(more = {}) {
  const key = sessionStorage.getItem(KEY);
  return key ? { ...more, Authorization: `Bearer ${key}` } : more;
}

async function asked(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: headers(options.headers) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { title: "No answer", detail: "The endpoint does not answer. Is it running?" });
  }
  if (response.ok) return response;
  throw new Problem(response.status, await response.json().catch(() => ({ title: response.statusText })));
}

export const json = async (path) => (await asked(path)).json();

/** A file with the name that the endpoint gives it; with a body (JSON) it is asked for with POST. */
export async function file(path, { signal, body } = {}) {
  const response = await asked(path, body ? { signal, ...posted(body) } : { signal });
  const name = /filename="([^"]+)"/.exec(response.headers.get("content-disposition") ?? "")?.[1] ?? "sample";
  return { name, blob: await response.blob() };
}

const posted = (body, headers = {}) => ({ method: "POST", body, headers: { "Content-Type": "application/json", ...headers } });

/** Has a sample made (`body` is JSON); `tell(step)` hears each step. Gives the last event, which says where the result is. */
export async function make(path, body, tell, signal) {
  const response = await asked(path, { ...posted(body, { Accept: "text/event-stream" }), signal });
  for await (const { name, data } of events(response.body)) {
    if (name === "step") tell(data);
    if (name === "problem") throw new Problem(data.status, data);
    if (name === "done") return data;
  }
  throw new Problem(0, { title: "Cut off", detail: "The connection ended before the sample was done." });
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const name = /^event: (.+)$/m.exec(block)?.[1];
      const data = /^data: (.+)$/m.exec(block)?.[1];
      if (name && data) yield { name, data: JSON.parse(data) };
    }
  }
}
