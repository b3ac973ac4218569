// A job's log as it is written. It reconnects where it left off, waits for nothing else on the page, and keeps
// the newest part: the whole is one click away, as text.

const box = document.querySelector("#log");
const KEEP = 400_000; // characters in the page
const FIRST = 256 * 1024; // bytes to begin with, from the end

let at = 0; // the byte to ask for next
let open = null;
let over = false;
let tries = 0;
let line = null; // the text node of the line being written
let tail = ""; // an escape sequence that is not whole yet

const total = Number(box.dataset.bytes) || 0;
if (total > FIRST) {
  at = total - FIRST;
  note(`… the first ${at.toLocaleString()} bytes are left out here: Raw has them`);
}

function note(text) {
  const mark = document.createElement("span");
  mark.className = "muted";
  mark.textContent = `${text}\n`;
  box.append(mark);
  line = null;
}

/** Append as a terminal would show it: no colours, and a carriage return writes the line anew (progress bars). */
function write(text) {
  text = (tail + text).replace(/\x1b\[[0-9;?]*[A-Za-z]/g, "").replace(/\r\n/g, "\n");
  const cut = text.search(/\x1b\[?[0-9;?]*$|\r$/);
  tail = cut < 0 ? "" : text.slice(cut);
  if (cut >= 0) text = text.slice(0, cut);
  const following = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
  const lines = text.split("\n");
  let whole = "";
  lines.forEach((piece, index) => {
    const last = index === lines.length - 1;
    if (index === 0 && line) piece = line.data + piece;
    const now = piece.slice(piece.lastIndexOf("\r") + 1);
    if (!last) whole += `${now}\n`;
    else {
      if (line) line.remove();
      if (whole) box.append(document.createTextNode(whole));
      line = document.createTextNode(now);
      box.append(line);
    }
  });
  let length = box.textContent.length;
  while (length > KEEP && box.firstChild !== line) {
    length -= box.firstChild.textContent.length;
    box.firstChild.remove();
  }
  if (following) box.scrollTop = box.scrollHeight;
}

async function follow() {
  if (open || over || document.hidden) return;
  const mine = (open = new AbortController());
  const decoder = new TextDecoder();
  try {
    const answer = await fetch(`${box.dataset.log}?offset=${at}&follow=true`, { signal: mine.signal, cache: "no-store" });
    if (answer.status === 401 || answer.status === 404) return (over = true), note(`The log cannot be read (status ${answer.status}).`);
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const reader = answer.body.getReader();
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      tries = 0;
      at += value.byteLength;
      write(decoder.decode(value, { stream: true }));
    }
    over = true;
    if (!box.textContent) note("It wrote nothing.");
    document.dispatchEvent(new Event("log-ended"));
  } catch {
    if (mine.signal.aborted) return;
    setTimeout(() => open === mine && ((open = null), follow()), Math.min(500 * 1.7 ** tries++, 10000));
  }
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    open?.abort();
    open = null;
  } else follow();
});
addEventListener("pagehide", () => open?.abort());
follow();
