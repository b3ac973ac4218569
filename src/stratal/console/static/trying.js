// Trying a model of the catalogue: a text, a picture or a sound in, what it says drawn, marked or played.

const form = document.querySelector("#trying");
const answer = document.querySelector("#answer");
const RATE = 16000;
const MOST_SECONDS = 60;
let chosen = null; // the file as base64, and what it looks or sounds like

function made(tag, text = "", className = "") {
  const element = document.createElement(tag);
  if (text) element.textContent = text;
  if (className) element.className = className;
  return element;
}

function drawn(tag, attributes) {
  // The namespace is that of the drawings that the page has already.
  const element = document.createElementNS(document.querySelector("svg").namespaceURI, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

const say = (text) => answer.replaceChildren(made("p", text));

// -- files ------------------------------------------------------------------------------------------

function asDataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

/** Whatever the browser can decode, as the WAV file that models listen to. */
async function asWave(blob) {
  const context = new AudioContext();
  const heard = await context.decodeAudioData(await blob.arrayBuffer());
  await context.close();
  const seconds = Math.min(heard.duration, MOST_SECONDS);
  const offline = new OfflineAudioContext(1, Math.max(1, Math.ceil(seconds * RATE)), RATE);
  const source = offline.createBufferSource();
  source.buffer = heard;
  source.connect(offline.destination);
  source.start();
  const samples = (await offline.startRendering()).getChannelData(0);
  const view = new DataView(new ArrayBuffer(44 + samples.length * 2));
  const words = (at, text) => [...text].forEach((c, i) => view.setUint8(at + i, c.charCodeAt(0)));
  words(0, "RIFF");
  view.setUint32(4, 36 + samples.length * 2, true);
  words(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, RATE, true);
  view.setUint32(28, RATE * 2, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  words(36, "data");
  view.setUint32(40, samples.length * 2, true);
  samples.forEach((value, i) => view.setInt16(44 + i * 2, Math.max(-1, Math.min(1, value)) * 32767, true));
  return { blob: new Blob([view.buffer], { type: "audio/wav" }), seconds: samples.length / RATE };
}

async function take(blob, name) {
  try {
    if (form.dataset.takes === "audio") {
      const sound = await asWave(blob);
      const url = await asDataUrl(sound.blob);
      chosen = { url, seconds: sound.seconds };
    } else {
      chosen = { url: await asDataUrl(blob) };
    }
    document.querySelector("#drop span").textContent = name;
    answer.replaceChildren(shown());
  } catch {
    chosen = null;
    say("This file cannot be read here.");
  }
}

function shown() {
  if (form.dataset.takes === "audio") {
    const player = made("audio");
    player.controls = true;
    player.src = chosen.url;
    return player;
  }
  const picture = made("img", "", "given");
  picture.alt = "The picture that is asked about";
  picture.src = chosen.url;
  return picture;
}

const drop = document.querySelector("#drop");
drop?.addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.dataset.over = "";
});
drop?.addEventListener("dragleave", () => delete drop.dataset.over);
drop?.addEventListener("drop", (event) => {
  event.preventDefault();
  delete drop.dataset.over;
  const [file] = event.dataTransfer.files;
  if (file) take(file, file.name);
});
document.querySelector("#file")?.addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (file) take(file, file.name);
});

let recorder = null;
document.querySelector("#record")?.addEventListener("click", async (event) => {
  const button = event.currentTarget;
  if (recorder) return recorder.stop();
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  } catch {
    return say("The browser gives no microphone to this page.");
  }
  const parts = [];
  recorder = new MediaRecorder(stream);
  recorder.ondataavailable = (piece) => parts.push(piece.data);
  recorder.onstop = () => {
    for (const track of stream.getTracks()) track.stop();
    recorder = null;
    button.textContent = "Record";
    take(new Blob(parts), "Recorded just now");
  };
  recorder.start();
  setTimeout(() => recorder?.stop(), MOST_SECONDS * 1000);
  button.textContent = "Stop recording";
});

// -- asking -----------------------------------------------------------------------------------------

async function answered(method, path, body) {
  const response = await fetch(form.dataset.base + path, {
    method,
    headers: { "Content-Type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  if (response.ok) return response;
  const told = await response.json();
  throw new Error(`${told.error?.message ?? response.status} ${told.error?.hint ?? ""}`);
}

const call = async (method, path, body) => (await answered(method, path, body)).json();

/** The events of an answer that is told as it is made. */
async function* streamed(path, body) {
  const response = await answered("POST", path, body);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const events = (held + value).split("\n\n");
    held = events.pop();
    for (const event of events) yield JSON.parse(event.replace(/^data: /, ""));
  }
}

async function deploy() {
  const name = encodeURIComponent(form.dataset.name);
  say("Pulling and checking its files …");
  const version = await call("POST", `/catalog/${name}/pull`);
  await call("POST", "/endpoints", { name: form.dataset.name, model: version.uri });
  for (;;) {
    const seen = await call("GET", `/endpoints/${name}`);
    if (seen.active) break;
    if (!["preparing", "starting"].includes(seen.latest.state)) throw new Error(seen.latest.failure);
    say("Building its environment and starting it; the first time takes a while …");
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
  form.dataset.deployed = "yes";
  form.querySelector("button[type=submit]").textContent = "Ask";
  form.querySelector("button[type=submit] + .muted").textContent = "is a request like any other: it is recorded";
}

function rows() {
  if (form.dataset.takes !== "text") return chosen ? [chosen.url.split(",")[1]] : [];
  const text = document.querySelector("#given").value;
  return (["say", "draw"].includes(form.dataset.task) ? [text] : text.split("\n")).filter((line) => line.trim());
}

const endpoint = () => `/endpoints/${encodeURIComponent(form.dataset.name)}`;

/** A picture, told step by step. */
async function draw({ text: [prompt], ...beside }) {
  const said = Object.fromEntries(Object.entries(beside).map(([name, [value]]) => [name, value]));
  let told = null;
  for await (const piece of streamed(`${endpoint()}/pictures`, { prompt, ...said })) {
    if (piece.error) throw new Error(`${piece.error.message} ${piece.error.hint ?? ""}`);
    if ("finish" in piece) told = piece;
    else say(`Drawing, step ${piece.step} …`);
  }
  if (!told) throw new Error("The answer broke off.");
  return { ...told, predictions: told.images };
}

async function ask() {
  const given = rows();
  if (!given.length) return say(form.dataset.takes === "text" ? "Write something first." : "Choose a file first.");
  if (form.dataset.deployed !== "yes") await deploy();
  say("Asking …");
  const inputs = { [form.dataset.takes]: given };
  for (const field of form.querySelectorAll("[data-option]")) {
    const value = field.dataset.option === "BYTES" ? field.value : Number(field.value);
    if (field.value.trim()) inputs[field.id] = given.map(() => value);
  }
  const told = form.dataset.task === "draw" ? await draw(inputs) : await call("POST", `${endpoint()}/invocations`, { inputs });
  const why = made("a", `Why? ${told.prediction_id}`, "link");
  why.href = `/predictions/${encodeURIComponent(told.prediction_id)}`;
  const show = SHOW[form.dataset.task] ?? plain;
  answer.replaceChildren(...(await show(told.predictions, given)), made("p"));
  answer.lastChild.append(why);
}

// -- showing ----------------------------------------------------------------------------------------

const plain = (found) => [made("pre", JSON.stringify(found, null, 1))];

/** The picture with a shape for each thing that was found; `shape` gives corner points. */
async function marked(found, points, name) {
  const frame = made("div", "", "marked");
  const picture = shown();
  frame.append(picture);
  await picture.decode();
  const size = `0 0 ${picture.naturalWidth} ${picture.naturalHeight}`;
  const layer = drawn("svg", { viewBox: size, role: "img", "aria-label": `${found.length} marked` });
  found.forEach((one, number) => {
    const shape = drawn("polygon", { points: points(one).map((p) => p.join(",")).join(" ") });
    const title = drawn("title", {});
    title.textContent = name(one, number);
    shape.append(title);
    layer.append(shape);
  });
  frame.append(layer);
  return frame;
}

function listed(items) {
  const list = made("ol");
  for (const item of items) list.append(made("li", item));
  return list;
}

function table(heads, lines) {
  const found = made("table", "", "dense");
  const head = found.createTHead().insertRow();
  for (const name of heads) {
    const cell = made("th", name);
    cell.scope = "col";
    head.append(cell);
  }
  const body = found.createTBody();
  for (const line of lines) {
    const row = body.insertRow();
    for (const cell of line) row.append(cell instanceof Node ? cell : made("td", String(cell)));
  }
  const scroll = made("div", "", "scroll");
  scroll.append(found);
  return scroll;
}

function toned(text, tone) {
  const cell = made("td");
  cell.append(made("mark", text, tone));
  return cell;
}

/** A text with its spans marked, each with its kind beside it. */
function highlighted(text, spans) {
  const line = made("p");
  let at = 0;
  for (const { start, end, kind } of [...spans].sort((a, b) => a.start - b.start)) {
    if (start < at || end <= start) continue;
    const characters = [...text]; // the model counts characters, not UTF-16's units
    line.append(characters.slice(at, start).join(""), made("mark", characters.slice(start, end).join("")), made("small", ` ${kind} `, "muted"));
    at = end;
  }
  line.append([...text].slice(at).join(""));
  return line;
}

const SHOW = {
  async ocr([told]) {
    const lines = JSON.parse(told.lines);
    const picture = await marked(lines, (line) => line.box, (line) => line.text);
    return [picture, lines.length ? listed(lines.map((line) => line.text)) : made("p", "No text was found.")];
  },
  async faces([told]) {
    const boxes = JSON.parse(told.faces);
    const corners = ({ x, y, width, height }) => [
      [x, y], [x + width, y], [x + width, y + height], [x, y + height],
    ];
    const picture = await marked(boxes, corners, (_, number) => `Face ${number + 1}`);
    return [picture, made("p", `${told.count} face${told.count === 1 ? "" : "s"}`)];
  },
  sentiment: (found, given) => [
    table(["Text", "Sentiment", "Score"], found.map((one, i) => [toned(given[i], one.label), one.label, one.score.toFixed(2)])),
  ],
  sort: (found, given) => [
    table(["Text", "Class", "Share"], found.map((one, i) => [given[i], one.label, `${(one.score * 100).toFixed(0)} %`])),
  ],
  language: (found, given) => [
    table(["Text", "Language", "Probability"], found.map((one, i) => [given[i], one.language, `${(one.score * 100).toFixed(0)} %`])),
  ],
  embed(found, given) {
    const near = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
    return [
      table(["Text", "Like the first", "First numbers"], found.map((vector, i) => [
        given[i], near(found[0], vector).toFixed(3), vector.slice(0, 4).map((value) => value.toFixed(3)).join(", "),
      ])),
    ];
  },
  async detect([told]) {
    const found = JSON.parse(told);
    const corners = ({ x, y, width, height }) => [
      [x, y], [x + width, y], [x + width, y + height], [x, y + height],
    ];
    const named = (one) => `${one.label}, ${(one.score * 100).toFixed(0)} %`;
    const picture = await marked(found, corners, named);
    return [picture, found.length ? listed(found.map(named)) : made("p", "Nothing was found above the threshold.")];
  },
  "classify-image": ([told]) => [
    shown(),
    table(["Kind", "Probability"], Object.entries(JSON.parse(told.scores)).map(([label, score]) => [label, `${(score * 100).toFixed(1)} %`])),
  ],
  entities: (found, given) => found.map((told, i) => highlighted(given[i], JSON.parse(told))),
  answer: (found, given) => found.map((one, i) => highlighted(given[i], [{ ...one, kind: `score ${one.score.toFixed(2)}` }])),
  translate: (found, given) => [table(["Text", "Translation"], found.map((one, i) => [given[i], one]))],
  chat: (found) => found.map((one) => made("pre", one)),
  transcribe: ([text]) => [shown(), made("p", text || "Nothing was understood.", "subtitle")],
  voice([told]) {
    const segments = JSON.parse(told.segments);
    const seconds = chosen.seconds || 1;
    const line = drawn("svg", { viewBox: "0 0 1000 24", class: "timeline", role: "img", "aria-label": "Where somebody speaks" });
    line.append(drawn("rect", { x: 0, y: 10, width: 1000, height: 4, class: "base" }));
    for (const { start, end } of segments) {
      line.append(drawn("rect", { x: (start / seconds) * 1000, y: 2, width: ((end - start) / seconds) * 1000, height: 20 }));
    }
    const times = segments.map(({ start, end }) => `${start.toFixed(2)} s to ${end.toFixed(2)} s`);
    return [shown(), line, made("p", `${(told.share * 100).toFixed(0)} % speech`), listed(times)];
  },
  draw([image]) {
    const picture = made("img", "", "given");
    picture.alt = document.querySelector("#given").value;
    picture.src = `data:image/png;base64,${image}`;
    return [picture];
  },
  say([sound]) {
    const player = made("audio");
    player.controls = true;
    player.src = `data:audio/wav;base64,${sound}`;
    return [player];
  },
};

form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = form.querySelector("button[type=submit]");
  button.disabled = true;
  try {
    await ask();
  } catch (error) {
    say(error instanceof TypeError ? "The platform could not be reached. Try again." : error.message);
  } finally {
    button.disabled = false;
  }
});
