// What every page has: theme, copying, relative times, the keyboard, the palette, the side panel.

const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const base = document.body.dataset.base ?? "";

// A morph must not undo what the viewer is typing into, nor close what they opened.
if (window.Idiomorph) {
  Idiomorph.defaults.ignoreActiveValue = true;
  Idiomorph.defaults.callbacks.beforeNodeMorphed = (node, next) =>
    !(node instanceof Element && (node.hasAttribute("data-keep") || (node.matches(".plot") && node.dataset.series === next.dataset?.series)));
  Idiomorph.defaults.callbacks.beforeAttributeUpdated = (name, node) => !(name === "open" && node.nodeName === "DETAILS");
}

export function say(text) {
  const place = $("#said");
  place.textContent = text;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => (place.textContent = ""), 2500);
}

// -- theme: what differs from the system's is remembered; choosing the system's own follows it again

function turnTheme() {
  const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  const root = document.documentElement;
  const chosen = (root.dataset.theme || system) === "dark" ? "light" : "dark";
  const follow = chosen === system;
  if (follow) delete root.dataset.theme;
  else root.dataset.theme = chosen;
  const life = follow ? "max-age=0" : "max-age=31536000";
  document.cookie = `stratal_theme=${chosen}; path=/; samesite=lax; ${life}`;
  document.dispatchEvent(new Event("themechange"));
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => document.dispatchEvent(new Event("themechange")));

// -- copying

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.createElement("textarea"); // without TLS browsers offer no clipboard
    area.value = text;
    area.className = "sr";
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  say("Copied");
}

// -- relative times; the exact one, in the viewer's own zone, is the title

const STEPS = [[60, 1, "s"], [3600, 60, "min"], [86400, 3600, "h"], [2592000, 86400, "d"]];
function tellTimes() {
  for (const time of $$("time[data-ago]")) {
    const at = new Date(time.dateTime);
    const seconds = (Date.now() - at) / 1000;
    const step = STEPS.find(([limit]) => seconds < limit);
    const text = seconds < 5 ? "just now" : step ? `${Math.floor(seconds / step[1])} ${step[2]} ago` : null;
    if (text && time.textContent !== text) time.textContent = text;
    time.title = at.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "long" });
  }
}
tellTimes();
setInterval(() => document.hidden || tellTimes(), 10_000);
document.addEventListener("htmx:afterSettle", tellTimes);
document.addEventListener("refreshed", tellTimes);

// -- the side panel: a chip's chain, from anywhere

async function openPanel(address) {
  const panel = $("#panel");
  if (!panel || !window.htmx) return false;
  await htmx.ajax("GET", address, { target: "#panel-body", swap: "innerHTML" });
  if (!panel.open) panel.showModal();
  tellTimes();
  return true;
}

// -- the palette

const palette = $("#palette");
let found = [];
let chosen = 0;
let asking = null;

function places() {
  return $$("[data-go]").map((a) => ({ name: a.textContent.trim(), kind: `g ${a.dataset.go}`, href: a.getAttribute("href") }));
}
const actions = [
  { name: "Turn the theme", kind: "action", run: turnTheme },
  { name: "Keyboard help", kind: "?", run: () => $("#help").showModal() },
  { name: "Pause or go on with live updates", kind: "action", run: () => $("#live")?.click() },
  { name: "Sign out", kind: "action", run: () => $(".foot form").requestSubmit() },
];

function showFound(waits = false) {
  const list = $("ul", palette);
  list.replaceChildren(
    ...found.map((item, index) => {
      const row = document.createElement("li");
      row.id = `found-${index}`;
      row.role = "option";
      row.ariaSelected = String(index === chosen);
      const name = document.createElement("span");
      name.textContent = item.name;
      const kind = document.createElement("span");
      kind.className = "kind";
      kind.textContent = item.kind;
      row.append(name, kind);
      row.addEventListener("click", () => go(item));
      return row;
    }),
  );
  const input = $("input", palette);
  list.hidden = !found.length;
  $(".none", palette).textContent = waits ? "Looking …" : "Nothing found.";
  $(".none", palette).hidden = found.length > 0;
  input.setAttribute("aria-expanded", String(found.length > 0));
  if (found.length) input.setAttribute("aria-activedescendant", `found-${chosen}`);
  else input.removeAttribute("aria-activedescendant");
  list.children[chosen]?.scrollIntoView({ block: "nearest" });
}

function go(item) {
  palette.close();
  if (item.run) item.run();
  else location.assign(item.href);
}

async function search() {
  const text = $("input", palette).value.trim();
  const words = text.toLowerCase().split(/\s+/);
  const known = [...places(), ...actions].filter((item) => words.every((word) => item.name.toLowerCase().includes(word)));
  found = known;
  chosen = 0;
  showFound(text !== "");
  asking?.abort();
  if (!text) return;
  asking = new AbortController();
  try {
    const answer = await fetch(`${base}/search?q=${encodeURIComponent(text)}`, {
      signal: asking.signal,
      headers: { Accept: "application/json" },
    });
    const { results } = answer.ok ? await answer.json() : { results: [] };
    found = [...known, ...results];
    chosen = Math.min(chosen, Math.max(found.length - 1, 0));
    showFound();
  } catch (error) {
    if (error.name !== "AbortError") throw error;
  }
}

function openPalette() {
  if (!palette || palette.open) return;
  $("input", palette).value = "";
  palette.showModal();
  search();
}

if (palette) {
  let typing;
  $("input", palette).addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(search, 90);
  });
  palette.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && found.length) {
      chosen = (chosen + step + found.length) % found.length;
      showFound();
      event.preventDefault();
    } else if (event.key === "Enter" && found[chosen]) {
      event.preventDefault();
      go(found[chosen]);
    }
  });
}

// -- links that an MLflow client prints lead to a page's fragment, which only a browser sees

const shown = location.hash.match(/^#\/experiments\/(\d+)(?:\/runs\/([0-9a-f]{8,64}))?/);
if (shown) location.replace(shown[2] ? `/runs/${shown[2]}` : `${base}/runs?experiment=${shown[1]}`);

// -- the keyboard

let prefix = 0;
function moveRow(step) {
  const links = $$("[data-rows] > tr").map((row) => $("a", row)).filter(Boolean);
  if (!links.length) return;
  const here = links.findIndex((link) => link.closest("tr").contains(document.activeElement));
  const next = here < 0 ? (step > 0 ? 0 : links.length - 1) : Math.min(Math.max(here + step, 0), links.length - 1);
  links[next].focus({ focusVisible: true });
  links[next].closest("tr").scrollIntoView({ block: "nearest" });
}

document.addEventListener("keydown", (event) => {
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") {
    event.preventDefault();
    openPalette();
    return;
  }
  if (event.key === "Escape") {
    const open = $$("dialog[open]").at(-1);
    if (open) {
      event.preventDefault(); // the browser would do it too, but later, and not always
      open.close();
      if (open.contains(document.activeElement)) document.activeElement.blur(); // the next key is the page's at once
      return;
    }
    $$("details.switch[open]").forEach((menu) => (menu.open = false));
    if (location.hash === "#menu") location.hash = "";
    if (document.activeElement?.matches("input[type=search]")) document.activeElement.blur();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.target.closest?.("input, textarea, select, [contenteditable]")) return;
  if (Date.now() - prefix < 1200) {
    prefix = 0;
    const place = $(`[data-go="${CSS.escape(event.key)}"]`);
    if (place) {
      event.preventDefault();
      location.assign(place.href);
    }
    return;
  }
  if (event.key === "g") prefix = Date.now();
  else if (event.key === "j") moveRow(1);
  else if (event.key === "k") moveRow(-1);
  else if (event.key === "x") document.activeElement?.closest("tr")?.querySelector(".pick")?.click();
  else if (event.key === "?") $("#help")?.showModal();
  else if (event.key === "/" && $("#content input[type=search]")) {
    event.preventDefault();
    $("#content input[type=search]").focus();
  }
});

// -- clicks

document.addEventListener("click", (event) => {
  const copier = event.target.closest("[data-copy]");
  if (copier) return void copy(copier.dataset.copy);
  const panelled = event.target.closest("a[data-panel]");
  if (panelled && window.htmx && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
    event.preventDefault();
    openPanel(panelled.dataset.panel).catch(() => location.assign(panelled.href));
    return;
  }
  const doer = event.target.closest("[data-do]");
  if (doer?.dataset.do === "theme") turnTheme();
  else if (doer?.dataset.do === "palette") openPalette();
  else if (doer?.dataset.do === "close") doer.closest("dialog").close();
  else if (event.target.nodeName === "DIALOG") event.target.close(); // the backdrop
  for (const menu of $$("details.switch[open]")) if (!menu.contains(event.target)) menu.open = false;
});
