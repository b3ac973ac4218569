// One event stream a page: says whether the page is live, and refreshes it without moving rows under the pointer.

const body = document.body;
const kinds = (body.dataset.live ?? "").split(" ").filter(Boolean);
const sign = document.querySelector("#live");
const fresh = document.querySelector("#fresh");
const NAMES = { live: "Live", reconnecting: "Reconnecting", paused: "Paused", out: "Signed out" };

let stopped = false; // by the viewer
let stream = null;
let lastId = "";
let tries = 0;
let due = 0;
let waiting = null; // a newer page, held back while the pointer rests on its rows

function state(name) {
  if (!sign) return;
  sign.hidden = false;
  if (sign.dataset.state === name) return;
  sign.dataset.state = name;
  sign.textContent = NAMES[name];
}

// -- the stream, read by hand: an EventSource only tells of kinds of events that it was told beforehand

async function listen() {
  if (stream || stopped || document.hidden) return;
  const mine = (stream = new AbortController());
  try {
    const headers = lastId ? { "Last-Event-ID": lastId } : {};
    const answer = await fetch(body.dataset.events, { signal: mine.signal, headers, cache: "no-store" });
    if (answer.status === 401) return state("out");
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    state("live");
    if (tries) soon(); // what happened while nobody listened
    tries = 0;
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) throw new Error("the stream ended");
      const blocks = (text + value).split("\n\n");
      text = blocks.pop();
      blocks.forEach(heard);
    }
  } catch {
    if (mine.signal.aborted) return;
    state("reconnecting");
    const wait = Math.min(1000 * 1.7 ** tries++, 15000);
    setTimeout(() => stream === mine && ((stream = null), listen()), wait);
  }
}

function heard(block) {
  const field = (name) => block.split("\n").find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2) ?? "";
  const kind = field("event");
  lastId = field("id") || lastId;
  if (kind && kinds.some((wanted) => kind.startsWith(wanted))) soon();
  if (kind) document.dispatchEvent(new CustomEvent("news", { detail: { kind, data: field("data") } }));
}

function hush() {
  stream?.abort();
  stream = null;
}

// -- refreshing

export function soon() {
  if (stopped || document.hidden) return;
  const now = Date.now();
  if (due > now) return;
  due = Math.max(now + 250, due + 1000);
  setTimeout(refresh, due - now);
}

async function refresh() {
  if (stopped) return;
  let html;
  try {
    const answer = await fetch(location.href, { headers: { "HX-Request": "true", "HX-Current-URL": location.href } });
    if (answer.status === 401) return state("out");
    if (!answer.ok) return;
    html = await answer.text();
  } catch {
    return; // the stream says that the server is away
  }
  const page = new DOMParser().parseFromString(html, "text/html").querySelector("#content");
  if (page) put(page);
}

function busy(rows) {
  return rows.matches(":hover") || rows.contains(document.activeElement);
}

/** Put the newer page in place. Rows that somebody points at keep their places; what would move them is counted. */
function put(page) {
  const whole = page.cloneNode(true);
  let held = 0;
  for (const rows of document.querySelectorAll("[data-rows]")) {
    const next = rows.id && page.querySelector(`#${CSS.escape(rows.id)}`);
    if (!next || !busy(rows)) continue;
    const known = new Map([...next.children].map((row) => [row.id, row]));
    const kept = [...rows.children].map((row) => known.get(row.id) ?? row.cloneNode(true));
    const keptIds = new Set([...rows.children].map((row) => row.id));
    held += [...known.keys()].filter((id) => !keptIds.has(id)).length;
    next.replaceChildren(...kept);
  }
  waiting = held ? whole : null;
  show(page);
  fresh.hidden = !held;
  fresh.textContent = held ? `Show ${held} new` : "";
}

function show(page) {
  Idiomorph.morph(document.querySelector("#content"), page, { morphStyle: "outerHTML" });
  htmx.process(document.querySelector("#content"));
  document.dispatchEvent(new Event("refreshed"));
}

function release() {
  if (!waiting) return;
  const page = waiting;
  waiting = null;
  fresh.hidden = true;
  show(page);
}

if (sign) {
  sign.addEventListener("click", () => {
    stopped = !stopped;
    if (stopped) {
      hush();
      state("paused");
    } else {
      listen();
      soon();
    }
  });
  fresh.addEventListener("click", release);
  document.addEventListener("pointermove", () => {
    if (waiting && ![...document.querySelectorAll("[data-rows]")].some(busy)) release();
  }, { passive: true });
  // A hidden page listens to nothing: browsers allow six connections to one address, shared by all tabs.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      hush();
      if (!stopped) state("paused");
    } else if (!stopped) {
      tries = Math.max(tries, 1);
      listen();
    }
  });
  addEventListener("pagehide", hush);
  addEventListener("pageshow", (event) => event.persisted && listen());
  listen();
  // What has no events of its own (a running run's points) says how often to look.
  setInterval(() => document.querySelector("[data-every]") && soon(), 5000);
}
