// A chat: with a language model, its answer shown as it is written, or over an index of documents, with citations.

const form = document.querySelector("#chatting");
const thread = document.querySelector("#thread");
const said = document.querySelector("#message");
const doing = document.querySelector("#doing");
const stop = document.querySelector("#stop");
const send = document.querySelector("#send");
let messages = [];
let asking = null; // the request in progress, to be broken off

function made(tag, text = "", className = "") {
  const element = document.createElement(tag);
  if (text) element.textContent = text;
  if (className) element.className = className;
  return element;
}

function entry(role, text) {
  document.querySelector("#nothing")?.remove();
  const turn = made("article", "", `turn ${role}`);
  turn.append(made("h2", role === "user" ? "You" : "Answer"), made("p", text, "words"));
  thread.append(turn);
  thread.scrollTop = thread.scrollHeight;
  return turn;
}

async function opened(path, body) {
  const response = await fetch(form.dataset.root + path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal: asking.signal,
  });
  if (response.ok) return response;
  const told = await response.json();
  throw new Error(`${told.error?.message ?? response.status} ${told.error?.hint ?? ""}`);
}

/** The events of a stream, each a JSON object. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const parts = rest.split("\n\n");
    rest = parts.pop();
    for (const part of parts) yield JSON.parse(part.replace(/^data: /, ""));
  }
}

/**
 * Shows what comes a few times a second, however often it comes: a page that lays itself out for each token of a quick
 * model has no time left for its Stop button.
 */
function writer(words) {
  const shown = words.appendChild(document.createTextNode(""));
  let waiting = "";
  let timer = null;
  const show = () => {
    clearTimeout(timer);
    timer = null;
    const low = thread.scrollHeight - thread.scrollTop - thread.clientHeight < 40;
    shown.appendData(waiting);
    waiting = "";
    if (low) thread.scrollTop = thread.scrollHeight;
  };
  const add = (text) => {
    waiting += text;
    timer ??= setTimeout(show, 60);
  };
  return { add, show };
}

async function written(turn, model) {
  const most = Number.parseInt(document.querySelector("#most").value, 10) || 512;
  const temperature = Number(document.querySelector("#temperature").value);
  const body = { messages, max_tokens: most, temperature: Number.isFinite(temperature) ? temperature : 0.7 };
  const response = await opened(`/endpoints/${encodeURIComponent(model)}/chat`, body);
  const words = writer(turn.querySelector(".words"));
  let end = null;
  try {
    for await (const piece of events(response)) {
      if (piece.error) throw new Error(piece.error.message);
      if (piece.text) words.add(piece.text);
      else end = piece;
    }
  } finally {
    words.show();
  }
  if (end) noted(turn, end);
}

/** What an answer cost, and where its proof is. */
function noted(turn, piece) {
  const cut = piece.finish === "length" ? ", cut off at its limit" : "";
  const note = made("p", `${piece.completion_tokens} tokens${cut} · `, "muted");
  const why = made("a", "why?", "link");
  why.href = `/predictions/${encodeURIComponent(piece.prediction_id)}`;
  note.append(why);
  turn.append(note);
}

/** Where a passage stands, as a link to its bucket. */
function place(one) {
  const [, bucket, key] = /^s3:\/\/([^/]+)\/(.*)$/s.exec(one.document) ?? [];
  const link = made("a", one.document + (one.page ? `, page ${one.page}` : ""), "mono");
  if (bucket) link.href = `${form.dataset.objects}/${encodeURIComponent(bucket)}?object=${encodeURIComponent(key)}`;
  return link;
}

async function looked(turn, index, model, question) {
  const response = await opened(`/indexes/${encodeURIComponent(index)}/ask`, { question, model: model || null });
  const told = await response.json();
  turn.querySelector(".words").textContent = told.answer;
  if (told.citations.length) {
    const list = made("ol", "", "citations");
    for (const one of told.citations) {
      const item = made("li", "", one.supported ? "" : "doubtful");
      item.value = one.number;
      item.append(place(one), made("p", one.supported ? one.quote : `Not borne out: ${one.quote}`));
      list.append(item);
    }
    turn.append(list);
  }
  turn.append(made("p", told.note, "muted"));
}

function busy(now) {
  send.disabled = now;
  stop.disabled = !now;
  doing.textContent = now ? "Writing …" : "";
  thread.setAttribute("aria-busy", String(now));
}

form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = said.value.trim();
  if (!text || asking) return;
  const model = document.querySelector("#writer").value;
  const index = document.querySelector("#source").value;
  if (!model && !index) {
    doing.textContent = "Choose who answers, or documents.";
    return;
  }
  asking = new AbortController();
  said.value = "";
  entry("user", text);
  messages.push({ role: "user", content: text });
  const turn = entry("assistant", "");
  busy(true);
  try {
    await (index ? looked(turn, index, model, text) : written(turn, model));
  } catch (error) {
    const stopped = error.name === "AbortError";
    const why = error instanceof TypeError ? "The platform could not be reached. Try again." : error.message;
    turn.append(made("p", stopped ? "Stopped." : why, stopped ? "muted" : "problem"));
  } finally {
    asking = null;
    busy(false);
    const answer = turn.querySelector(".words").textContent;
    if (answer) messages.push({ role: "assistant", content: answer });
    else messages.pop(); // what was not answered is not held against the next question
    said.focus();
  }
});

stop?.addEventListener("click", () => asking?.abort());

document.querySelector("#anew")?.addEventListener("click", () => {
  asking?.abort();
  messages = [];
  thread.replaceChildren(made("p", "Begun anew.", "muted"));
  thread.firstChild.id = "nothing";
});

said?.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  form.requestSubmit();
});

for (const [id, name] of [["writer", "model"], ["source", "index"]]) {
  document.querySelector(`#${id}`)?.addEventListener("change", (event) => {
    const address = new URL(location.href);
    if (event.target.value) address.searchParams.set(name, event.target.value);
    else address.searchParams.delete(name);
    history.replaceState(history.state, "", address);
  });
}
