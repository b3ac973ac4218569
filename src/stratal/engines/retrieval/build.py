"""Builds an index: reads the documents, cuts them into passages, has them embedded and stores them as a table.

Run in a job's sandbox, behind the lines of `stratal.ai.retrieval.terms`, which it is given with: nothing of the
platform is installed there. It talks to the platform as any client does, so what it read is in its lineage. A
document that cannot be read is left out and named with the reason; it does not stop the others.
"""

import base64
import hashlib
import html.parser
import io
import json
import os
import random
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from stratal.ai.retrieval.terms import asked_terms, terms_of  # cut away: see `program`

WORDS = 160  # what an embedding model reads at once, with some room
OVERLAP = 30  # words of a sentence that a paragraph goes on with when it was cut
LONG_ITEM = 60  # words of a list's item that is quoted by its sentences
LEAST_SENTENCE = 5  # words of a sentence that stands alone
LEAST_PART = 3
SENTENCE_END = re.compile(r"(?<=[.!?])([\"')\]*_]*)\s+(?=[^\sa-z])")
BELOW = " › "  # between headings
MAX_DOCUMENT = 64 << 20
MAX_PAGES = 5_000
MAX_PIXELS = 40_000_000
MAX_TEXT = 20_000_000  # characters of one document
BATCH = 64
QUESTIONS = 40
KINDS = {
    ".pdf": "pdf",
    **dict.fromkeys((".html", ".htm", ".xhtml"), "html"),
    **dict.fromkeys((".md", ".markdown"), "markdown"),
    **dict.fromkeys((".txt", ".text", ".rst", ".log", ".csv", ".tsv"), "text"),
    **dict.fromkeys((".png", ".jpg", ".jpeg"), "picture"),
}


Json = dict[str, Any]
Parts = list[tuple[int | None, str]]


class Unreadable(Exception):
    """Why a document is left out, for people."""


class Platform:
    def __init__(self) -> None:
        self.url = os.environ["STRATAL_URL"]
        self.project = urllib.parse.quote(os.environ["STRATAL_PROJECT"], safe="")
        self._bearer = "Bearer " + os.environ["STRATAL_API_KEY"]

    def native(self, method: str, path: str, body: Json | None = None, **query: object) -> Any:
        raw = self.ask(method, f"/api/v1/projects/{self.project}{path}", body, query)
        return json.loads(raw) if raw else None

    def ask(
        self,
        method: str,
        path: str,
        body: Json | bytes | None = None,
        query: Mapping[str, object] | None = None,
        kind: str = "application/json",
    ) -> bytes:
        address = self.url + path + ("?" + urllib.parse.urlencode(query) if query else "")
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        for attempt in range(6):
            request = urllib.request.Request(address, data, method=method)  # noqa: S310 - the platform's own address
            request.add_header("Authorization", self._bearer)
            request.add_header("Content-Type", kind)
            try:
                with urllib.request.urlopen(request, timeout=300) as answer:  # noqa: S310
                    return bytes(answer.read())
            except urllib.error.HTTPError as error:
                said = error.read().decode(errors="replace")
                if error.code not in (429, 503) or attempt == 5:
                    raise RuntimeError(f"{method} {path}: {error.code} {said[:500]}") from None
            except urllib.error.URLError:  # the server is being started again
                if attempt == 5:
                    raise
            time.sleep(2**attempt)
        raise AssertionError


def main(name: str) -> None:
    platform = Platform()
    quoted = urllib.parse.quote(name, safe="")
    index = platform.native("GET", f"/indexes/{quoted}")
    bucket, _, pattern = index["source"].removeprefix("s3://").partition("/")
    rows: list[Json] = []
    skipped: list[Json] = []
    documents = 0
    for entry in listed(platform, bucket, pattern or "**"):
        key = entry["name"]
        try:
            parts = read_document(platform, index, bucket, entry)
            made = passages(f"s3://{bucket}/{key}", entry["version"], parts)
            if not made:
                raise Unreadable("There is no text in it.")
        except Unreadable as error:
            skipped.append({"document": f"s3://{bucket}/{key}", "reason": str(error)})
            print(f"left out {key}: {error}", flush=True)
            continue
        documents += 1
        rows += made
        print(f"{key}: {len(made)} passages", flush=True)
    if not rows:
        sys.exit(f"Nothing of {index['source']} can be read: {skipped[:5] or 'there are no such objects'}.")
    for number, row in enumerate(rows):
        row["id"] = number
    embed(platform, index["embedder"], rows)
    lines = b"".join(line_of(row) for row in rows)
    platform.ask(
        "PUT",
        f"/api/v1/projects/{platform.project}/tables/{urllib.parse.quote(index['table'], safe='')}/import",
        lines,
        {"mode": "replace", "format": "json", "filename": "passages.jsonl"},
        "application/octet-stream",
    )
    told = {"documents": documents, "passages": len(rows), "skipped": skipped}
    platform.native("POST", f"/indexes/{quoted}/built", told)
    print(f"{len(rows)} passages of {documents} documents are in {index['table']}", flush=True)
    questions = made_up(rows)
    if (index.get("calibration") or {}).get("source") != "people" and questions:
        try:
            found = platform.native("POST", f"/indexes/{quoted}/calibration", {"questions": questions})
            print(f"calibrated: {json.dumps(found)}", flush=True)
        except RuntimeError as error:
            print(f"not calibrated: {error}", flush=True)


def listed(platform: Platform, bucket: str, pattern: str) -> Iterator[Json]:
    """The bucket's objects whose keys match, in order."""
    prefix = re.split(r"[*?]", pattern)[0]
    wanted = as_regex(pattern)
    after = ""
    while True:
        page = platform.native(
            "GET", f"/buckets/{urllib.parse.quote(bucket)}/objects", prefix=prefix, after=after, limit=1000
        )
        yield from (entry for entry in page["objects"] if wanted.match(entry["name"]))
        after = page["next_after"]
        if not after:
            return


def as_regex(pattern: str) -> re.Pattern[str]:
    """``**`` is anything, ``*`` anything but a slash, ``?`` one character; without any it is a prefix or a whole key."""
    if not re.search(r"[*?]", pattern):
        return re.compile(re.escape(pattern.rstrip("/")) + r"(?:/.*)?\Z", re.DOTALL)
    spelt = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    return re.compile("".join(spelt.get(part) or re.escape(part) for part in parts) + r"\Z", re.DOTALL)


# -- reading --------------------------------------------------------------------------------------


def read_document(platform: Platform, index: Json, bucket: str, entry: Json) -> Parts:
    """Its text in parts: (page or None, text)."""
    key = entry["name"]
    kind = KINDS.get(Path(key.lower()).suffix)
    if kind is None:
        raise Unreadable("Only PDF, HTML, Markdown, text, PNG and JPEG are read, told by the name's ending.")
    if entry["size"] > MAX_DOCUMENT:
        raise Unreadable(f"It has {entry['size']} bytes; at most {MAX_DOCUMENT} are read.")
    data = platform.ask(
        "GET",
        f"/api/v1/projects/{platform.project}/buckets/{urllib.parse.quote(bucket)}/object",
        None,
        {"key": key},
    )
    if kind == "pdf":
        return read_pdf(data, lambda picture: read_picture(platform, index["ocr"], picture))
    if kind == "picture":
        return [(None, read_picture(platform, index["ocr"], data))]
    text = decoded(data)
    return [(None, read_html(text) if kind == "html" else text)]


def read_pdf(data: bytes, look: Callable[[bytes], str] | None = None) -> Parts:
    """The text of its pages; a page without any, which is a scan, by its pictures, as `look` reads them."""
    import pypdf

    try:
        reader = pypdf.PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise Unreadable("It is encrypted.")
        if len(reader.pages) > MAX_PAGES:
            raise Unreadable(f"It has {len(reader.pages)} pages; at most {MAX_PAGES} are read.")
        parts: Parts = []
        size = 0
        unread = ""
        for number, page in enumerate(reader.pages, start=1):
            text = page.extract_text() or ""
            if not text.strip() and look is not None:
                try:
                    text = "\n".join(look(picture) for picture in pictures_of(page))
                except Unreadable as error:
                    unread = f"Page {number} is a picture. {error}"
            size += len(text)
            if size > MAX_TEXT:
                raise Unreadable(f"Its text is longer than {MAX_TEXT} characters.")
            parts.append((number, text))
        if unread and not any(text.strip() for _, text in parts):
            raise Unreadable(unread)
        return parts
    except Unreadable:
        raise
    except Exception as error:  # whatever a damaged file makes the library raise
        raise Unreadable(f"It is no PDF that can be read: {type(error).__name__}: {error}"[:300]) from None


def pictures_of(page: Any) -> Iterator[bytes]:
    """The pictures of a page as PNG or JPEG. Raises `Unreadable` for one that is too large, or of no kind that is read."""
    try:
        things = page["/Resources"]["/XObject"]
    except KeyError:
        return
    for name in things:
        stream = things[name]  # followed to where it lies, as the two above are
        if stream.get("/Subtype") != "/Image":
            continue
        if int(stream.get("/Width", 0)) * int(stream.get("/Height", 0)) > MAX_PIXELS:
            raise Unreadable(f"A picture in it has more than {MAX_PIXELS // 1_000_000} megapixels.")
        if stream.get("/Filter") in ("/DCTDecode", ["/DCTDecode"]):
            yield bytes(stream._data)  # a JPEG file as it is
            continue
        try:
            picture = stream.decode_as_image()
        except Exception as error:  # whatever a damaged picture makes the library raise
            raise Unreadable(f"A picture in it cannot be read: {type(error).__name__}.") from None
        out = io.BytesIO()
        picture.convert("RGB").save(out, "PNG")
        yield out.getvalue()


def read_picture(platform: Platform, ocr: str | None, data: bytes) -> str:
    if not ocr:
        raise Unreadable("Pictures are read by an endpoint for OCR, and the index names none (--ocr).")
    path = f"/endpoints/{urllib.parse.quote(ocr, safe='')}/invocations"
    try:
        answer = platform.native("POST", path, {"inputs": {"image": [base64.b64encode(data).decode()]}})
    except RuntimeError as error:
        raise Unreadable(f"The picture was not read: {error}"[:300]) from None
    told = answer["predictions"][0]
    return str(told["text"] if isinstance(told, dict) else told)


class _Text(html.parser.HTMLParser):
    """The readable text of a page; headings become Markdown's."""

    HIDDEN = frozenset({"script", "style", "noscript", "template", "svg", "head", "nav"})
    BLOCKS = frozenset(
        {
            "p",
            "div",
            "section",
            "article",
            "li",
            "tr",
            "br",
            "table",
            "ul",
            "ol",
            "blockquote",
            "pre",
            "main",
        }
    )
    HEADINGS = frozenset(f"h{level}" for level in range(1, 7))

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self.HIDDEN:
            self.hidden += 1
        elif tag in self.HEADINGS:
            self.parts.append("\n\n" + "#" * int(tag[1]) + " ")
        elif tag in self.BLOCKS:
            self.parts.append("\n\n" if tag in ("p", "section", "article", "table") else "\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in self.HIDDEN:
            self.hidden = max(0, self.hidden - 1)
        elif tag in self.HEADINGS or tag == "p":
            self.parts.append("\n\n")
        elif tag in ("td", "th"):
            self.parts.append("  ")

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.parts.append(re.sub(r"\s+", " ", data))


def read_html(text: str) -> str:
    reader = _Text()
    reader.feed(text)
    reader.close()
    return "".join(reader.parts)


def decoded(data: bytes) -> str:
    for encoding in ("utf-8-sig", "utf-16") if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ("utf-8-sig",):
        try:
            text = data.decode(encoding)
            break
        except UnicodeDecodeError:
            continue
    else:
        text = data.decode("cp1252", errors="replace")
    if "\0" in text[:10_000]:
        raise Unreadable("It is no text.")
    return text[:MAX_TEXT]


# -- cutting --------------------------------------------------------------------------------------


@dataclass
class Block:
    kind: str
    lines: list[str]
    level: int = 0

    def units(self) -> list[str]:
        """What is never cut, unless it is longer than a passage may be."""
        if self.kind == "code":
            return [line for line in self.lines if line.strip()]
        if self.kind == "table":
            return self.lines
        whole = " ".join(" ".join(self.lines).split())
        if self.kind == "item" and len(whole.split()) <= LONG_ITEM:
            return [whole]
        units: list[str] = []
        for sentence in sentences(whole):
            if units and len(units[-1].split()) < LEAST_SENTENCE:  # a bold word at the beginning, say
                units[-1] += " " + sentence
            else:
                units.append(sentence)
        return units

    @property
    def between(self) -> str:
        return "\n" if self.kind in ("code", "table") else " "


def passages(document: str, version: str, parts: Parts) -> list[Json]:
    """Rows of at most `WORDS` words below one heading: whole paragraphs, lists and tables where they fit.

    `parts` of a row are what an answer may quote of it: its sentences, items, rows and lines of code.
    """
    rows: list[Json] = []
    name = document.rsplit("/", 1)[-1]
    path: list[tuple[int, str]] = []
    for page, text in parts:
        for held in packed(blocks(text), path):
            body = "\n".join(joined for joined, _ in held)
            headings = [heading for _, heading in path]
            # A heading says what all below it is about: its words count twice, and once those of the file's name.
            terms = terms_of(" ".join([Path(name).stem, *headings, *headings, body]))
            if not terms_of(body):
                continue
            rows.append(
                {
                    "document": document,
                    "version": version,
                    "title": f"{name}: {BELOW.join(headings)}" if headings else name,
                    "page": page,
                    "position": len(rows),
                    "text": body,
                    "parts": [part for _, told in held for part in told if len(part.split()) >= LEAST_PART],
                    "terms": terms,
                    "length": len(terms),
                }
            )
    return rows


def blocks(text: str) -> Iterator[Block]:
    """Headings, paragraphs, items of lists, tables and code, in order. What is fenced in is no heading."""
    lines = text.replace("\r\n", "\n").split("\n")
    fences = fenced(lines)
    kind, held = "", []
    for number, line in enumerate([*lines, ""]):
        plain = line.strip()
        if fences.get(number) == "code":
            held.append(line.rstrip())
            continue
        heading = re.match(r"(#{1,6})\s+(.*)", line)
        item = re.match(r"(?:[-*+]|\d{1,3}[.)])\s", plain)
        row = plain.startswith("|")
        if not plain or number in fences or heading or item or (kind == "table") != row:
            if held:
                yield Block(kind or "text", held)
            kind, held = "", []
        if number in fences:
            kind = "code"
        elif heading:
            yield Block("heading", [heading[2].strip().rstrip("#").strip()[:200]], level=len(heading[1]))
        elif plain:
            kind = kind or ("item" if item else "table" if row else "text")
            held.append(plain)


def fenced(lines: list[str]) -> dict[int, str]:
    """The lines that are ``code`` between fences, and the ``fence``s. One that nothing closes is text."""
    found: dict[int, str] = {}
    number = 0
    while number < len(lines):
        opening = re.match(r"(`{3,}|~{3,})[^`]*\Z", lines[number].strip())
        number += 1
        if opening is None:
            continue
        closing = re.compile(re.escape(opening[1]) + re.escape(opening[1][0]) + r"*\Z")
        end = next((at for at in range(number, len(lines)) if closing.match(lines[at].strip())), None)
        if end is not None:
            found |= dict.fromkeys((number - 1, end), "fence") | dict.fromkeys(range(number, end), "code")
            number = end + 1
    return found


def packed(found: Iterable[Block], path: list[tuple[int, str]]) -> Iterator[list[tuple[str, list[str]]]]:
    """What each passage consists of, (text, its parts); `path` has the headings that it stands below meanwhile."""
    held: list[tuple[str, list[str]]] = []
    size = 0
    for block in found:
        if block.kind == "heading":
            if held:
                yield held
            held, size = [], 0
            while path and path[-1][0] >= block.level:
                path.pop()
            path.append((block.level, block.lines[0]))
            continue
        for units in fitting(block):
            words = sum(len(unit.split()) for unit in units)
            if held and size + words > WORDS:
                yield held
                held, size = [], 0
            told = [
                unit for unit in units if not re.fullmatch(r"[|\s:-]+", unit)
            ]  # a table's line below its head
            held.append((block.between.join(units), told))
            size += words
    if held:
        yield held


def fitting(block: Block) -> Iterator[list[str]]:
    """The block's units, in as few portions as fit into a passage each; of prose with some overlap."""
    held: list[str] = []
    size = 0
    for unit in chain.from_iterable(map(sliced, block.units())):
        words = len(unit.split())
        if held and size + words > WORDS:
            yield held
            last = held[-1] if block.kind == "text" else ""
            held = [last] if last and len(last.split()) <= min(OVERLAP, WORDS - words) else []
            size = sum(len(one.split()) for one in held)
        held.append(unit)
        size += words
    if held:
        yield held


def sentences(text: str) -> Iterator[str]:
    """With what closes them: together they are the text."""
    start = 0
    for end in SENTENCE_END.finditer(text):
        yield text[start : end.end(1)]
        start = end.end()
    yield text[start:]


def sliced(unit: str) -> Iterator[str]:
    """A unit that is longer than a passage, in pieces that are not."""
    words = unit.split()
    if len(words) <= WORDS:
        yield unit
        return
    for at in range(0, len(words), WORDS):
        yield " ".join(words[at : at + WORDS])


# -- embedding and questions ----------------------------------------------------------------------


def embed(platform: Platform, endpoint: str, rows: list[Json]) -> None:
    """Give each row the vector of its whole and those of its parts, each in the light of what it stands below."""
    texts: list[str] = []
    for row in rows:
        below = row["title"].partition(": ")[2]
        texts.append((below + "\n" + " ".join(row["text"].split())).strip())
        nearest = below.rsplit(BELOW, 1)[-1]
        texts += [f"{nearest}: {part}" if nearest else part for part in row["parts"]]
    vectors = embedded(platform, endpoint, texts)
    for row in rows:
        row["embedding"] = next(vectors)
        row["part_embeddings"] = [next(vectors) for _ in row["parts"]]


def embedded(platform: Platform, endpoint: str, texts: list[str]) -> Iterator["array[float]"]:
    for start in range(0, len(texts), BATCH):
        asked = {"model": endpoint, "input": texts[start : start + BATCH], "encoding_format": "base64"}
        answer = json.loads(platform.ask("POST", "/v1/embeddings", asked))
        for one in answer["data"]:
            yield array("f", base64.b64decode(one["embedding"]))
        if start // BATCH % 8 == 0 or start + BATCH >= len(texts):
            print(f"embedded {min(start + BATCH, len(texts))} of {len(texts)}", flush=True)


def line_of(row: Json) -> bytes:
    """The row as a line of JSON; of a vector's numbers six digits, which change no order and halve what is sent."""
    told = {
        **row,
        "embedding": rounded(row["embedding"]),
        "part_embeddings": [rounded(vector) for vector in row["part_embeddings"]],
    }
    return json.dumps(told, ensure_ascii=False).encode() + b"\n"


def rounded(vector: "array[float]") -> list[float]:
    return [round(value, 6) for value in vector]


def made_up(rows: list[Json]) -> list[Json]:
    """Questions made of the documents' own sentences: a few of a sentence's telling words, and where it stands.

    Those of one sentence are a group.
    """
    chance = random.Random(0)  # noqa: S311 - the same questions of the same documents
    documents: dict[str, list[Json]] = {}
    for row in rows:
        documents.setdefault(row["document"], []).append(row)
    if len(documents) < 2:
        return []
    found: list[Json] = []
    names = list(documents)
    chance.shuffle(names)
    for turn in range(QUESTIONS):
        document = names[turn % len(names)]
        row = chance.choice(documents[document])
        sentences = [s for s in re.split(r"(?<=[.!?])\s+", row["text"]) if len(asked_terms(s)) >= 6]
        if not sentences:
            continue
        sentence = chance.choice(sentences)
        words = [w for w in sentence.split() if asked_terms(w)[:1] and len(w) > 3]
        kept = sorted(chance.sample(range(len(words)), max(3, len(words) // 2))) if len(words) > 3 else []
        if kept:
            asked = " ".join(words[at] for at in kept)[:500]
            group = hashlib.sha256(
                sentence.encode()
            ).hexdigest()  # what chooses is not measured on in other words
            found.append({"question": asked, "document": document, "group": group})
    return found


if __name__ == "__main__":
    main(sys.argv[1])
