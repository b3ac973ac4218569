// Trying an endpoint: asks it with what the form says, and shows the answer with the id that explains it.

const form = document.querySelector("#try");

const READ = {
  whole: (text) => Number.parseInt(text, 10),
  number: Number,
  flag: (text) => text.trim().toLowerCase() === "true",
  text: String,
};

function body() {
  const read = [...form.querySelectorAll("input")].map((input) => {
    const value = READ[input.dataset.kind](input.value);
    const bad = typeof value === "number" && !Number.isFinite(value);
    input.setAttribute("aria-invalid", String(bad));
    return [input.name, value, bad];
  });
  if (read.some(([, , bad]) => bad)) return null;
  // A model without names for its columns takes a row of numbers.
  if (form.dataset.takes === "matrix") return { inputs: [read.map(([, value]) => value)] };
  return { dataframe_records: [Object.fromEntries(read)] };
}

function show(...parts) {
  document.querySelector("#answer").replaceChildren(...parts);
}

function paragraph(text) {
  const made = document.createElement("p");
  made.textContent = text;
  return made;
}

async function ask() {
  const asked = body();
  if (asked === null) return show(paragraph("A number is missing where one is marked."));
  const answer = await fetch(form.dataset.url, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(asked),
  });
  const told = await answer.json();
  if (!answer.ok) return show(paragraph(`${told.error?.message ?? answer.status} ${told.error?.hint ?? ""}`));
  const list = document.createElement("dl");
  list.className = "facts";
  const first = told.predictions[0];
  const named = first !== null && typeof first === "object" && !Array.isArray(first);
  for (const [name, value] of Object.entries(named ? first : { answer: first })) {
    const term = document.createElement("dt");
    term.textContent = name;
    const said = document.createElement("dd");
    said.textContent = typeof value === "string" ? value : JSON.stringify(value);
    list.append(term, said);
  }
  const why = document.createElement("a");
  why.className = "link";
  why.href = `/predictions/${encodeURIComponent(told.prediction_id)}`;
  why.textContent = `Why? ${told.prediction_id}`;
  show(list, why);
}

form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = form.querySelector("button");
  button.disabled = true;
  show(paragraph("Asking …"));
  try {
    await ask();
  } catch {
    show(paragraph("The platform could not be reached. Try again."));
  } finally {
    button.disabled = false;
  }
});
