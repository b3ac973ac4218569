"""Retrieval without a platform: words, cutting documents, calibration, and answers taken from passages."""

import ast
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratal.ai.retrieval import answers
from stratal.ai.retrieval.calibration import Scored, calibrate
from stratal.ai.retrieval.model import Passage
from stratal.ai.retrieval.service import split_source
from stratal.ai.retrieval.terms import asked_terms, terms_of
from stratal.engines.retrieval import build, program
from stratal.kernel.errors import Invalid

pytestmark = pytest.mark.fast


NEAR = ([0.2, 0.1], [0.8])


def passage(number: int, text: str) -> Passage:
    return Passage(
        str(number), f"s3://b/{number}.md", "obj_1", f"{number}.md", None, 0, text, 0.5, 1.0, 0.1, 0.5
    )


def test_the_words_of_a_question_and_of_a_passage_meet() -> None:
    assert asked_terms("What are the invoices of the office?") == ["invoice", "office"]
    assert set(asked_terms("How many BOXES?")) <= set(terms_of("Many boxes arrived."))
    assert asked_terms("who are you") == ["who", "are", "you"]


def test_the_program_of_the_job_is_whole_and_needs_nothing_of_ours() -> None:
    text = program()
    assert "stratal.ai" not in text.replace("`stratal.ai.retrieval.terms`", "")
    names = {node.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)}
    assert {"terms_of", "asked_terms", "passages", "main"} <= names


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("docs/**", ["docs/a.md", "docs/x/y.pdf"], ["other/a.md"]),
        ("docs/*.md", ["docs/a.md"], ["docs/x/a.md", "docs/a.mdx"]),
        ("docs/**/*.md", ["docs/a.md", "docs/x/y/a.md"], ["docs/a.txt"]),
        ("docs", ["docs/a.md", "docs"], ["docs2/a.md"]),
        ("a?c.txt", ["abc.txt"], ["a/c.txt", "abbc.txt"]),
    ],
)
def test_a_pattern_means_what_it_says(pattern: str, yes: list[str], no: list[str]) -> None:
    wanted = build.as_regex(pattern)
    assert [key for key in [*yes, *no] if wanted.match(key)] == yes


@settings(max_examples=20)
@given(st.lists(st.text(st.characters(categories=["L", "N", "P", "Z"]), max_size=400), max_size=12))
def test_cutting_loses_no_word_and_makes_no_passage_too_long(blocks: list[str]) -> None:
    text = "\n\n".join(block.replace("#", "") for block in blocks)
    rows = build.passages("s3://b/x.txt", "v", [(None, text)])
    told = set(" ".join(row["text"] for row in rows).split())
    assert {word for word in text.split() if terms_of(word)} <= told
    assert all(len(row["text"].split()) <= build.WORDS for row in rows)
    assert [row["position"] for row in rows] == list(range(len(rows)))


def test_a_page_is_read_without_what_nobody_sees_and_its_headings_name_passages() -> None:
    page = (
        "<html><head><title>t</title></head><body><script>var x = 1</script><nav>Menu</nav>"
        "<h1>Leave</h1><p>Twenty &amp; five days.</p><h2>Sick</h2><p>Call us.</p></body></html>"
    )
    rows = build.passages("s3://b/p.html", "v", [(None, build.read_html(page))])
    assert [(row["title"], row["text"]) for row in rows] == [
        ("p.html: Leave", "Twenty & five days."),
        ("p.html: Leave › Sick", "Call us."),
    ]


MANUAL = """# Pumps

Each pump has a number. It stands on the *plate.* Read it first.

## Care
- **Oil.** Once a year, by the workshop.
- Filters:
  every month
| part | every |
|---|---|
| seal | 5 years |

```sh
# not a heading
pump stop 3   # stops it
``` not its end
```
After that it rests.
"""


def test_a_manual_is_cut_along_its_headings_lists_tables_and_code() -> None:
    first, second = build.passages("s3://b/pump-manual.md", "v", [(None, MANUAL)])
    assert first["title"] == "pump-manual.md: Pumps"
    assert first["parts"] == ["Each pump has a number.", "It stands on the *plate.*", "Read it first."]
    assert second["title"] == "pump-manual.md: Pumps › Care"
    assert second["parts"] == [
        "- **Oil.** Once a year, by the workshop.",
        "- Filters: every month",
        "| part | every |",
        "| seal | 5 years |",
        "# not a heading",
        "pump stop 3   # stops it",
        "``` not its end",
        "After that it rests.",
    ]
    plain = " ".join(MANUAL.split())
    assert all(" ".join(part.split()) in plain for row in (first, second) for part in row["parts"])
    (unclosed,) = build.passages("s3://b/a.md", "v", [(None, "```sql table\n\n# Care\nOil it well.")])[1:]
    assert (unclosed["title"], unclosed["text"]) == ("a.md: Care", "Oil it well."), (
        "a fence that nothing closes"
    )
    assert second["terms"].count("care") == 2, "a heading says what all below it is about"
    assert "manual" in second["terms"]


@pytest.mark.parametrize("data", [b"", b"%PDF-1.7 broken", b"\0\1\2\3" * 50])
def test_what_is_no_document_is_named_with_a_reason(data: bytes) -> None:
    pytest.importorskip("pypdf")
    with pytest.raises(build.Unreadable):
        build.read_pdf(data)


def test_text_that_is_none_is_refused_and_odd_encodings_are_read() -> None:
    assert build.decoded("Grüße".encode("utf-16")) == "Grüße"
    assert build.decoded("Grüße".encode("cp1252")) == "Grüße"
    with pytest.raises(build.Unreadable):
        build.decoded(b"\0" * 100)


def test_a_threshold_is_chosen_on_one_half_and_measured_on_the_other() -> None:
    good = [Scored(0.5 + at / 100, True) for at in range(20)]
    bad = [Scored(0.1 + at / 100, False) for at in range(20)]
    made = calibrate([*good, *bad], "people")
    assert made is not None
    assert 0.28 < made.threshold < 0.5
    assert (made.answered, made.refused, made.questions) == (1.0, 1.0, 40)
    assert calibrate(good, "people") is None
    # Half of those that are answered are no surer than the others: it depends on what a wrong answer costs.
    mingled = [*good, *(Scored(0.1 + at / 100, True) for at in range(20)), *bad]
    chosen = {wrong: calibrate(mingled, "people", wrong) for wrong in (0.0, 0.5, 1.0)}
    assert [made.refused for made in chosen.values() if made] == pytest.approx([1.0, 0.5, 0.0], abs=0.11)
    assert [made.answered for made in chosen.values() if made] == pytest.approx([0.5, 0.75, 1.0], abs=0.11)
    assert [made.at_most_wrong for made in chosen.values() if made] == [0.0, 0.5, 1.0]
    mixed = calibrate([Scored(at % 10 / 10, at % 3 == 0) for at in range(60)], "documents")
    assert mixed is not None
    assert mixed.answered is not None
    assert mixed.refused is not None


def test_what_is_measured_on_shares_nothing_with_what_chooses() -> None:
    """Questions of one sentence stand on one side: here the other sentence's are answered worse, and that shows."""
    near = [Scored(0.5, True, "a"), Scored(0.4, False, "a")] * 5
    far = [Scored(0.3, True, "b"), Scored(0.2, False, "b")] * 5
    mixed = [one for pair in zip(near, far, strict=True) for one in pair]
    made = calibrate(mixed, "documents")
    assert made is not None
    assert (made.threshold, made.answered, made.refused) == (0.45, 0.0, 1.0)
    assert calibrate(near, "documents") is None  # one sentence only: nothing is left to measure on
    rows = build.passages(
        "s3://b/a.md", "v", [(None, "Every new employee receives paid holiday leave yearly.")]
    )
    rows += build.passages(
        "s3://b/b.md", "v", [(None, "Broken laptops are brought to workshop building seven.")]
    )
    made_up = build.made_up(rows)
    assert len({one["group"] for one in made_up}) == 2
    assert all(len({o["document"] for o in made_up if o["group"] == one["group"]}) == 1 for one in made_up)


def test_an_answer_is_sentences_that_stand_in_the_documents_each_with_its_place() -> None:
    found = [
        passage(1, "Leave is twenty-five days a year. It is asked for in the portal."),
        passage(2, "The canteen opens at noon."),
    ]
    text, citations = answers.extract("How many days of leave?", found)
    assert text == "Leave is twenty-five days a year. [1]"
    parted = [
        replace(one, parts=one.text.split(". "), part_near=near)
        for one, near in zip(found, NEAR, strict=True)
    ]
    assert answers.extract("When is lunch?", parted)[0] == "The canteen opens at noon. [1]"
    assert [(one.number, one.passage.document, one.quote) for one in citations] == [
        (1, "s3://b/1.md", "Leave is twenty-five days a year.")
    ]


def test_only_passages_that_there_are_count_as_cited() -> None:
    found = [passage(1, "one"), passage(2, "two")]
    assert [one.number for one in answers.cited("So [2], as [7] and [2] say [1].", found)] == [2, 1]
    assert "[2] 2.md\ntwo" in answers.prompt("q", found)[1]["content"]


def test_a_citation_is_held_against_the_sentences_that_cite_it() -> None:
    found = [
        passage(1, "Every employee has 25 days of paid leave a year. It is asked for in the portal."),
        passage(2, "The canteen serves lunch from noon."),
    ]
    borne_out = answers.cited("You have 25 days of leave a year. [1] Lunch is served from noon [2].", found)
    assert [(one.number, one.supported, one.quote) for one in borne_out] == [
        (1, True, "Every employee has 25 days of paid leave a year."),
        (2, True, "The canteen serves lunch from noon."),
    ]
    assert answers.note_of(borne_out) == answers.GENERATED
    for wrong in (
        "You have 30 days of leave a year [1].",  # another number
        "Trains of the second class are paid for [2].",  # other words
        "You have 25 days of leave [1]. Flights are booked by the office alone [1].",  # one of two
    ):
        (one,) = answers.cited(wrong, found)
        assert not one.supported
        assert f"[{one.number}]" in answers.note_of([one])
    assert answers.note_of([]) == answers.UNCITED


def test_a_source_names_a_bucket() -> None:
    assert split_source("s3://b/docs/**") == ("b", "docs/**")
    assert split_source("s3://b/") == ("b", "**")
    for wrong in ("b/docs", "http://b/x", "s3:///x", "s3://b"):
        with pytest.raises(Invalid):
            split_source(wrong)
