"""The chatbot's pages are the installation's, and its questions still fit them."""

import json
import sys
from pathlib import Path

import pytest

from stratal.ai.solutions.catalogue import Catalogue
from stratal.cli.solutions.runner import _document

sys.path.insert(0, str(Catalogue().root))
from kit import checks

pytestmark = pytest.mark.fast


def test_the_pages_that_a_job_gets_are_the_edition_they_say(tmp_path: Path) -> None:
    source = tmp_path / "docs"
    (source / "decisions").mkdir(parents=True)
    (source / "a.md").write_text("# A")
    (source / "b.md").write_text("# B")
    (source / "decisions" / "1.md").write_text("not for users")
    (source / "picture.webp").write_bytes(b"RIFF")
    _document(source, tmp_path / "given")
    given = sorted(path.name for path in (tmp_path / "given").iterdir())
    assert given == ["EDITION", "a.md", "b.md"]
    whole = b"a.md\0# A\0b.md\0# B\0"
    assert (tmp_path / "given" / "EDITION").read_text() == checks.sha256(whole)


def test_nine_in_ten_of_the_answering_words_still_stand_in_the_documentation() -> None:
    catalogue = Catalogue()
    pages = [" ".join(p.read_text().split()) for p in catalogue.documentation.glob("*.md")]
    lines = (catalogue.root / "chatbot" / "questions.jsonl").read_text().splitlines()
    asked = [one for one in map(json.loads, lines) if one["evidence"]]
    gone = [
        one["question"]
        for one in asked
        if not any(" ".join(words.split()) in page for words in one["evidence"] for page in pages)
    ]
    assert len(gone) * 10 <= len(asked), f"write new questions for what is documented otherwise now: {gone}"


def test_the_table_of_what_was_measured_names_every_solution_by_what_it_declares() -> None:
    catalogue = Catalogue()
    page = (catalogue.documentation / "solutions.md").read_text()
    table = page.partition("<!-- measured:")[2].partition("<!-- /measured -->")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| `")]
    declared = [(f"`{one.name}`", one.headline.title, one.headline.badge) for one in catalogue.all()]
    assert sorted((name, title, badge) for name, title, badge, *_ in rows) == sorted(declared)
    for name, *_, verdict, seeds, _cpu, _latency in rows:
        one = catalogue.get(name.strip("`"))
        assert int(seeds) == one.seeds
        allowed = {"refused, as declared", "refused"} if one.refusal else {"promoted", "refused"}
        assert verdict.partition(" (")[0] in (
            {"mechanics only", "refused"} if one.mechanics_only else allowed
        ), name
