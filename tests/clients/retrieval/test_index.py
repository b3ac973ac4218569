"""`stratal index` as a user runs it: documents in, an index, answers with citations, and none where there is none."""

import json
import zlib
from pathlib import Path

from platform_server import PlatformServer

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
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    head = b"xref\n0 5\n0000000000 65535 f \n" + table
    return out + head + b"trailer << /Size 5 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % len(out)


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
        "logs", str(made["job"]), *given
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

    server.cli("index", "rm", "handbook", "--yes", *given)
    assert server.json("index", "ls", *given)["indexes"] == []
    assert "indexes.handbook" not in [one["name"] for one in server.json("tables", "ls", *given)["tables"]]


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
