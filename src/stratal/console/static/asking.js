// Asking an index of documents: answers with their citations, newest first, or the passages that were found.

const form = document.querySelector("#asking");
const answers = document.querySelector("#answers");

function made(tag, text = "", className = "") {
  const element = document.createElement(tag);
  if (text) element.textContent = text;
  if (className) element.className = className;
  return element;
}

async function call(verb, body) {
  const response = await fetch(`${form.dataset.url}/${verb}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  const told = await response.json();
  if (!response.ok) throw new Error(`${told.error?.message ?? response.status} ${told.error?.hint ?? ""}`);
  return told;
}

/** Where a passage stands, as a link to its bucket. */
function place(one) {
  const [, bucket, key] = /^s3:\/\/([^/]+)\/(.*)$/s.exec(one.document) ?? [];
  const link = made("a", one.document + (one.page ? `, page ${one.page}` : ""), "mono");
  if (bucket) link.href = `${form.dataset.objects}/${encodeURIComponent(bucket)}?object=${encodeURIComponent(key)}`;
  return link;
}

/** The text with the words of the question marked. */
function marked(text, question) {
  const found = made("p");
  const words = new Set((question.toLowerCase().match(/[\p{L}\p{N}]{4,}/gu) ?? []).map((word) => word.replace(/s$/, "")));
  for (const piece of text.split(/([\p{L}\p{N}]+)/u)) {
    const telling = words.has(piece.toLowerCase().replace(/s$/, ""));
    found.append(telling ? made("mark", piece) : piece);
  }
  return found;
}

function answered(question, told) {
  const entry = made("article", "", "answer");
  entry.append(made("h3", question), made("p", told.answer, told.mode === "abstained" ? "muted" : ""));
  const list = made("ol", "", "citations");
  for (const one of told.citations) {
    const item = made("li", "", one.supported ? "" : "doubtful");
    item.value = one.number;
    item.append(place(one), marked(one.quote, question));
    list.append(item);
  }
  if (told.citations.length) entry.append(list);
  entry.append(made("p", told.note, "muted"));
  return entry;
}

function found(question, told) {
  const entry = made("article", "", "answer");
  entry.append(made("h3", question));
  const list = made("ol", "", "citations");
  for (const one of told.passages) {
    const item = made("li");
    item.append(place(one), marked(one.text, question));
    list.append(item);
  }
  entry.append(told.passages.length ? list : made("p", "Nothing was found.", "muted"));
  return entry;
}

form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const field = document.querySelector("#question");
  const question = field.value.trim();
  if (!question) return;
  const searching = event.submitter?.value === "search";
  const model = document.querySelector("#writer")?.value || null;
  const buttons = [...form.querySelectorAll("button")];
  for (const button of buttons) button.disabled = true;
  const waiting = made("article", "", "answer");
  waiting.append(made("h3", question), made("p", "Looking …", "muted"));
  answers.prepend(waiting);
  try {
    const told = searching ? await call("search", { query: question, limit: 10 }) : await call("ask", { question, model });
    waiting.replaceWith(searching ? found(question, told) : answered(question, told));
    field.value = "";
  } catch (error) {
    waiting.lastChild.textContent = error instanceof TypeError ? "The platform could not be reached. Try again." : error.message;
  } finally {
    for (const button of buttons) button.disabled = false;
    field.focus();
  }
});
