// Trying an endpoint: asks it with what the form says, and shows the answer with the id that explains it.

const form = document.querySelector("#try");

const READ = {
  whole: (text) => Number.parseInt(text, 10),
  number: Number,
  flag: (text) => text.trim().toLowerCase() === "true",
  text: String,
};

const MOST_BYTES = 8 * 2 ** 20;
const PICTURES = { iVBORw0KGgo: "image/png", "/9j/": "image/jpeg", R0lGOD: "image/gif" };

/** The address that shows a picture in base64, told by its first bytes; null when it is none. */
function picture(text) {
  const known = Object.keys(PICTURES).find((start) => text.startsWith(start));
  return known ? `data:${PICTURES[known]};base64,${text}` : null;
}

// What was chosen in place of the example's pictures, in base64, by the input's name.
const chosen = new Map();

form?.querySelectorAll("input[type=file]").forEach((input) => {
  input.addEventListener("change", () => {
    const [file] = input.files;
    input.setCustomValidity("");
    chosen.delete(input.name);
    if (!file) return shown(input, input.dataset.example);
    if (file.size > MOST_BYTES) {
      input.setCustomValidity("At most 8 MiB, please.");
      input.reportValidity();
      return undefined;
    }
    const reader = new FileReader();
    reader.addEventListener("load", () => {
      chosen.set(input.name, reader.result.slice(reader.result.indexOf(",") + 1));
      shown(input, chosen.get(input.name));
    });
    return reader.readAsDataURL(file);
  });
});

function shown(input, text) {
  const image = input.parentElement.querySelector("img");
  const address = picture(text);
  if (address) image.src = address;
  else image.removeAttribute("src");
}

function body() {
  const read = [...form.querySelectorAll("input")].map((input) => {
    if (input.type === "file") return [input.name, chosen.get(input.name) ?? input.dataset.example, false];
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
    const address = typeof value === "string" ? picture(value) : null;
    if (address) {
      const image = document.createElement("img");
      image.className = "thumb";
      image.alt = name;
      image.src = address;
      said.append(image);
    } else said.textContent = typeof value === "string" ? value : JSON.stringify(value);
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
