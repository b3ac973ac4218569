// Opening a workspace in a tab of its own, starting and stopping it, and restoring saves.

function say(text) {
  const place = document.querySelector("#acted");
  if (place) place.textContent = text;
}

async function post(address) {
  const answer = await fetch(address, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: "{}",
  });
  const told = await answer.json();
  if (answer.ok) return told;
  say(`${told.error?.message ?? answer.status} ${told.error?.hint ?? ""}`);
  return null;
}

// A link of the page's own making: another host's page gets no hold of this one.
function open(address) {
  const link = document.createElement("a");
  link.href = address;
  link.target = "_blank";
  link.rel = "noopener noreferrer";
  document.body.append(link);
  link.click();
  link.remove();
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-open], [data-act]");
  if (!button || button.disabled) return;
  if (button.dataset.sure && !window.confirm(button.dataset.sure)) return;
  button.disabled = true;
  try {
    const told = await post(button.dataset.open ?? button.dataset.act);
    if (told === null) return;
    if (button.dataset.open) open(told.url);
    else location.reload();
  } finally {
    button.disabled = false;
  }
});
