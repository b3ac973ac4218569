"""`stratal index` as a user runs it: documents in, an index, answers with citations, and none where there is none."""

import io
import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from platform_server import PlatformServer, wait_until

SAMPLES = Path(__file__).parents[3] / "src" / "stratal" / "cli" / "catalog" / "samples"

DOCUMENTS = {
    "leave.md": (
        "# Leave\nEvery employee has twenty-five days of paid leave a year. Leave is asked for in the portal two weeks "
        "ahead.\nUnused days expire at the end of March.\n\n# Sickness\nWhoever is ill calls the team lead before nine. "
        "From the fourth day on a doctor's note is needed."
    ),
    "travel.html": (
        "<html><script>ignored()</script><body><h1>Travel</h1><p>Train tickets of the second class are paid for by the "
        "company. Flights are booked by the office only.</p><h2>Hotels</h2><p>Hotels cost at most 140 euros a night.</p>"
    ),
    "sub/equipment.txt": (
        "Each engineer chooses a laptop every three years.\n\nBroken equipment is brought to the workshop in building "
        "seven. Passwords are never written down on paper."
    ),
    "canteen.md": "# Canteen\nThe canteen serves lunch from half past eleven to two. Guests pay nine euros for a meal.",
}
ANSWERED = [
    ("How many days of leave do I have?", "leave.md"),
    ("When do unused leave days expire?", "leave.md"),
    ("From when on do I need a doctor's note?", "leave.md"),
    ("Which class of train tickets is paid for?", "travel.html"),
    ("How much may a hotel cost a night?", "travel.html"),
    ("Who books flights?", "travel.html"),
    ("Where is broken equipment brought?", "equipment.txt"),
    ("How often do engineers choose a laptop?", "equipment.txt"),
    ("When is lunch served in the canteen?", "canteen.md"),
    ("What do guests pay for a meal?", "canteen.md"),
]
FOREIGN = [
    "Who won the world cup in 1990?",
    "What is the boiling point of nitrogen?",
    "How do I prune an apple tree?",
    "When was the violin concerto composed?",
    "Which planet has the most moons?",
    "How long does a marathon take?",
    "What is the capital of Mongolia?",
    "Why do cats purr?",
]


def pdf(text: str) -> bytes:
    """The smallest file that is a PDF with one line of text."""
    return with_stream(f"BT /F1 12 Tf 40 700 Td ({text}) Tj ET".encode())


def with_stream(stream: bytes, more: bytes = b"") -> bytes:
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R "
        b"/Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>",
        b"<< /Length %d%s >>\nstream\n%s\nendstream" % (len(stream), more, stream),
    ]
    return with_objects(objects)


def with_objects(objects: list[bytes]) -> bytes:
    """A PDF file of these objects, numbered from 1, the first its catalogue."""
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    size = len(objects) + 1
    head = b"xref\n0 %d\n0000000000 65535 f \n" % size + table
    return out + head + b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (size, len(out))


def test_documents_are_indexed_found_answered_from_and_not_answered_from(
    server: PlatformServer, tmp_path: Path
) -> None:
    project = server.project()
    bucket = f"{project}-docs"
    files = {name: text.encode() for name, text in DOCUMENTS.items()}
    files |= {
        "policy.pdf": pdf("Visitors wear a green badge at all times."),
        "broken.pdf": b"%PDF-1.4 no",
        "bomb.pdf": with_stream(zlib.compress(b" " * (300 << 20), 9), b" /Filter /FlateDecode"),
        "a.zip": b"PK",
    }
    with server.http() as http:
        here = f"/api/v1/projects/{project}"
        assert http.post(f"{here}/buckets", json={"name": bucket}).status_code == 201
        for name, data in files.items():
            at = f"{here}/buckets/{bucket}/object"
            assert http.put(at, params={"key": f"handbook/{name}"}, content=data).status_code == 201
    given = ("--project", project)
    made = server.json("index", "create", "handbook", f"s3://{bucket}/handbook/**", *given, timeout=900)
    assert (made["state"], made["documents"]) == ("ready", 5), server.cli(
        "job", "logs", str(made["job"]), *given
    ).stdout
    assert {one["document"].rpartition("/")[2] for one in made["skipped"]} == {
        *("broken.pdf", "bomb.pdf", "a.zip")
    }
    assert all(one["reason"] for one in made["skipped"])

    found = server.json("index", "search", "handbook", "badge for visitors", *given)["passages"]
    assert (found[0]["document"], found[0]["page"]) == (f"s3://{bucket}/handbook/policy.pdf", 1)
    counted = server.json("sql", f'SELECT count(*) AS n FROM indexes."{made["name"]}"', *given)
    assert counted["rows"][0][0] == made["passages"]

    asked = [{"question": text, "document": document} for text, document in ANSWERED]
    asked += [{"question": text} for text in FOREIGN]
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps(one) + "\n" for one in asked))
    calibrated = server.json("index", "calibrate", "handbook", str(questions), *given, timeout=600)
    assert calibrated["source"] == "people"
    assert calibrated["refused"] >= 0.7
    assert calibrated["answered"] >= 0.7

    told = server.json(
        "index", "ask", "handbook", "How many days of paid leave does an employee have?", *given
    )
    assert told["mode"] == "extractive"
    assert "twenty-five days" in told["answer"]
    assert told["citations"][0]["document"].endswith("leave.md")
    assert "No generating model" in told["note"]
    nothing = server.json("index", "ask", "handbook", "Who painted the ceiling of the chapel?", *given)
    assert (nothing["mode"], nothing["citations"]) == ("abstained", [])
    no_model = server.cli(
        "index",
        "ask",
        "handbook",
        "How many days of leave?",
        "--model",
        made["embedder"],
        *given,
        check=False,
    )
    assert "does not generate text" in no_model.stderr

    older = "CREATE OR REPLACE TABLE indexes.handbook AS SELECT * EXCLUDE (parts, part_embeddings) FROM indexes.handbook"
    server.json("sql", older, *given)
    told = server.json(
        "index", "ask", "handbook", "How many days of paid leave does an employee have?", *given
    )
    assert "twenty-five days" in told["answer"], (
        "an index that was built before passages had parts answers, too"
    )

    assert server.json("index", "rm", "handbook", "--yes", *given) == {"name": "handbook", "removed": True}
    assert server.json("index", "ls", *given)["indexes"] == []
    assert "indexes.handbook" not in [one["name"] for one in server.json("tables", "ls", *given)["tables"]]


@pytest.mark.soak
def test_scans_are_read_and_found_where_they_stand(server: PlatformServer) -> None:
    """A picture of text, and PDFs whose pages are pictures: found by search, each with its document and page."""
    project = server.project()
    bucket = f"{project}-scans"
    picture = Image.open(SAMPLES / "ocr.png").convert("RGB")
    scanned = io.BytesIO()
    blank = Image.new("RGB", picture.size, "white")
    blank.save(scanned, "PDF", save_all=True, append_images=[picture])  # the second page is the scan
    gray = Image.open(SAMPLES / "ocr-3.png").convert("L")
    files = {
        "photo.png": (SAMPLES / "ocr-3.png").read_bytes(),
        "scan.pdf": scanned.getvalue(),
        "deflated.pdf": scan_of(gray),
        "policy.pdf": pdf("Visitors wear a green badge at all times."),
        "leave.md": DOCUMENTS["leave.md"].encode(),
        "broken.png": b"\x89PNG no",
    }
    with server.http() as http:
        here = f"/api/v1/projects/{project}"
        assert http.post(f"{here}/buckets", json={"name": bucket}).status_code == 201
        for name, data in files.items():
            at = f"{here}/buckets/{bucket}/object"
            assert http.put(at, params={"key": name}, content=data).status_code == 201
    given = ("--project", project)
    made = server.json("index", "create", "scans", f"s3://{bucket}/**", *given, timeout=900)
    assert (made["state"], made["documents"], made["ocr"]) == ("ready", 5, "rapidocr")
    assert [one["document"].rpartition("/")[2] for one in made["skipped"]] == ["broken.png"]

    def found(query: str) -> list[tuple[str, int | None]]:
        told = server.json("index", "search", "scans", query, *given)["passages"]
        return [(one["document"].removeprefix(f"s3://{bucket}/"), one["page"]) for one in told]

    assert found("delivery note 58213, twelve boxes")[0] == ("scan.pdf", 2)
    words = " ".join(read_words("ocr-3.png").split()[:6])
    assert set(found(words)[:2]) == {("photo.png", None), ("deflated.pdf", 1)}
    assert found("badge for visitors")[0] == ("policy.pdf", 1)
    told = server.json("index", "ask", "scans", "Who received delivery note 58213?", *given)
    assert (told["citations"][0]["document"], told["citations"][0]["page"]) == (f"s3://{bucket}/scan.pdf", 2)
    body = {"source": f"s3://{bucket}/deflated.pdf", "embedder": made["embedder"]}
    with server.http() as http:  # without an endpoint for OCR it is left out, and why is said
        assert http.put(f"/api/v1/projects/{project}/indexes/blind", json=body).status_code == 200
    blind = wait_until(lambda: not_building(server.json("index", "show", "blind", *given)), seconds=300)
    assert blind["state"] == "failed"
    log = server.cli("job", "logs", str(blind["job"]), *given).stdout
    assert "Page 1 is a picture. Pictures are read by an endpoint for OCR" in log


def not_building(seen: dict[str, Any]) -> dict[str, Any] | None:
    return seen if seen["state"] != "building" else None


def read_words(name: str) -> str:
    """What the bundled picture is known to say."""
    known = json.loads((SAMPLES / "sets.json").read_text())["ocr"]["files"]
    return str(dict(known)[name])


def scan_of(picture: Image.Image) -> bytes:
    """A PDF whose only page is the picture, its pixels deflated."""
    pixels = zlib.compress(picture.tobytes())
    width, height = picture.size
    drawn = b"q %d 0 0 %d 0 0 cm /Im0 Do Q" % (width, height)
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 %d %d] /Contents 4 0 R "
        b"/Resources << /XObject << /Im0 5 0 R >> >> >>" % (width, height),
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(drawn), drawn),
        b"<< /Type /XObject /Subtype /Image /Width %d /Height %d /ColorSpace /DeviceGray /BitsPerComponent 8 "
        b"/Filter /FlateDecode /Length %d >>\nstream\n%s\nendstream" % (width, height, len(pixels), pixels),
    ]
    return with_objects(objects)


def test_what_cannot_be_built_says_why(server: PlatformServer) -> None:
    project = server.project()
    given = ("--project", project)
    missing = server.cli("index", "show", "none", *given, check=False)
    assert (missing.returncode, "no index" in missing.stderr) == (6, True)
    with server.http() as http:
        here = f"/api/v1/projects/{project}"
        assert http.post(f"{here}/buckets", json={"name": f"{project}-d"}).status_code == 201
        for source, code in (("docs/**", "bad_source"), ("s3://nowhere-at-all/**", "no_such_bucket")):
            answer = http.put(f"{here}/indexes/x", json={"source": source})
            assert answer.json()["error"]["code"] == code, answer.text
        body = {"source": f"s3://{project}-d/**", "embedder": "none"}
        assert http.put(f"{here}/indexes/x", json=body).json()["error"]["code"] == "no_such_endpoint"
        answer = http.post(f"{here}/indexes/x/built", json={"documents": 1, "passages": 1})
        assert answer.status_code == 404
