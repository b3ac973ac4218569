// Forms that change something: what they say goes to the native API as JSON, with the viewer's own cookie.
//
// `data-api` is the path below /api/v1, `data-method` its verb, a field's `data-kind` what its words become. Afterwards
// the page `data-then` is gone to ({name} in it is that field of the answer), or the part of the page that the form stands
// in (`data-part`, an address) or the page itself is shown anew; `data-shows` names a field of the answer that is
// shown in its place, because it is told this once.

function told(form, text, wrong) {
  const place = form.querySelector("output");
  place.textContent = text;
  place.classList.toggle("wrong", wrong);
}

function said(form, submitter) {
  const body = {};
  for (const [name, value] of new FormData(form, submitter)) {
    const kind = form.elements[name]?.dataset?.kind;
    if (kind === "words") body[name] = String(value).split(/[\s,]+/).filter(Boolean);
    else if (kind === "days") {
      if (value) body[name] = Date.now() + Number(value) * 86400000;
    } else if (kind === "gib") body[name] = Math.round(Number(value) * 2 ** 30);
    else if (kind === "hours") body[name] = Number(value) * 3600;
    else body[name] = value;
  }
  return body;
}

async function again(form) {
  const part = form.closest("[data-part]");
  if (part && window.htmx) {
    await window.htmx.ajax("GET", part.dataset.part, { target: part, swap: "innerHTML" });
    return;
  }
  if (form.dataset.then) location.assign(form.dataset.then);
  else location.reload();
}

document.addEventListener("submit", async (event) => {
  const form = event.target.closest("form[data-api]");
  if (!form) return;
  event.preventDefault();
  if (form.dataset.sure && !window.confirm(form.dataset.sure)) return;
  const method = form.dataset.method ?? "POST";
  const button = event.submitter;
  if (button) button.disabled = true;
  try {
    const answer = await fetch(`/api/v1${form.dataset.api}`, {
      method,
      headers: { "Content-Type": "application/json" },
      body: method === "DELETE" ? undefined : JSON.stringify(said(form, button)),
    });
    const text = await answer.text();
    const content = text ? JSON.parse(text) : {};
    if (!answer.ok) {
      told(form, `${content.error?.message ?? answer.status} ${content.error?.hint ?? ""}`.trim(), true);
      return;
    }
    if (form.dataset.shows) {
      told(form, `${form.dataset.prefix ? location.origin : ""}${content[form.dataset.shows]}`, false);
      return;
    }
    if (form.dataset.then)
      form.dataset.then = form.dataset.then.replace(/\{(\w+)\}/g, (_, name) => encodeURIComponent(content[name]));
    await again(form);
  } finally {
    if (button) button.disabled = false;
  }
});
