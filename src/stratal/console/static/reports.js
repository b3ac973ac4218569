// Writing a report: a preview as it would be shown, and a save that is refused when somebody else was faster.

const form = document.getElementById("writing");
const text = document.getElementById("text");
const preview = document.getElementById("shown");
const told = form.querySelector("output");
let shown = text.value;
let saved = text.value;

async function ask(address, method, body) {
  const answer = await fetch(address, { method, headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(`${content.error?.message ?? answer.status} ${content.error?.hint ?? ""}`.trim());
  return content;
}

function say(words, wrong) {
  told.textContent = words;
  told.classList.toggle("wrong", wrong);
}

async function look() {
  if (shown === text.value) return;
  const asked = text.value;
  try {
    const { html } = await ask(form.dataset.preview, "POST", { text: asked });
    // Made by the platform of Markdown that takes no HTML; what is read so runs nothing while it is read.
    preview.replaceChildren(...new DOMParser().parseFromString(html, "text/html").body.childNodes);
    shown = asked;
    say("", false);
  } catch (error) {
    say(error.message, true);
  }
}

document.getElementById("look").addEventListener("click", look);
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    await ask(form.dataset.report, "PUT", { text: text.value, version: Number(form.dataset.version) });
    saved = text.value;
    location.assign(form.dataset.then);
  } catch (error) {
    say(error.message, true);
  }
});
window.addEventListener("beforeunload", (event) => {
  if (text.value !== saved) event.preventDefault();
});
