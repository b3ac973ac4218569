"""Every solution that travels with Stratal is declared whole, and a broken declaration is refused by name."""

import re
import shutil
from pathlib import Path

import pytest

from stratal.ai.solutions.catalogue import Catalogue
from stratal.ai.solutions.manifest import Solution, read
from stratal.ai.solutions.shown import shown
from stratal.kernel.errors import Invalid, NotFound

pytestmark = pytest.mark.fast

CATALOGUE = Catalogue()
SOLUTIONS = CATALOGUE.all()


@pytest.mark.parametrize("solution", SOLUTIONS, ids=lambda s: s.name)
def test_a_solution_is_declared_whole(solution: object) -> None:
    one = CATALOGUE.get(solution.name)  # type: ignore[attr-defined]
    assert "ingest" in one.steps
    assert "train" in one.steps
    assert all([one.title, one.summary, one.intended_use, one.not_for, one.disclaimer, one.metrics])
    assert sum(metric.headline for metric in one.metrics) == 1
    for source in one.sources:
        assert source.kind in {"downloaded", "platform"} or re.fullmatch("[0-9a-f]{64}", source.sha256), (
            source.name
        )
    assert set(one.refusal.get("gates", [])) <= {gate.title for gate in one.gates}
    assert one.checks, "some SQL holds the data to what it should be"
    assert shown(one)["project"] == f"solution-{one.name}"


@pytest.mark.parametrize("solution", SOLUTIONS, ids=lambda s: s.name)
def test_its_environment_is_locked(solution: object) -> None:
    lines = solution.requirements.splitlines()  # type: ignore[attr-defined]
    assert lines
    assert [
        line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+( ; .*)?", line)
    ] == []


GOOD = (CATALOGUE.root / "disease-diagnosis" / "solution.toml").read_text()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "disease-diagnosis"', 'name = "other"', "not that of its folder"),
        ('kind = "bundled"', 'kind = "found"', "kind of source"),
        ("seeds = 10", "seeds = 2", "3 is the least"),
        ('kind = "latency"', 'kind = "budget"', "lacks cpu_minutes_per_seed"),
        ('badge = "real"', 'badge = "true"', "badge"),
        ('reference = "street1993"', 'reference = "nobody"', "not declared"),
        ("disclaimer = ", "disclaimers = ", "'disclaimer' is missing"),
        ('metric = "brier"', 'metric = "brie"', "not declared"),
        ("[run]", "[run", "cannot be read"),
        (
            "[run]",
            '[[pulls]]\nname = "m"\nsource = "hf:a/b@main"\nlicence = "MIT"\n[run]',
            "does not name one commit",
        ),
        ('kind = "bundled"', 'kind = "downloaded"\nurl = "ftp://example.org/x"', "is no https address"),
    ],
)
def test_a_broken_declaration_is_refused_and_says_what_is_wrong(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    assert old in GOOD
    folder = tmp_path / "disease-diagnosis"
    folder.mkdir()
    (folder / "solution.toml").write_text(GOOD.replace(old, new))
    with pytest.raises(Invalid, match=re.escape(said)):
        read(folder)


def test_a_file_of_the_folder_is_sent_in_base64_and_no_other_file_is(tmp_path: Path) -> None:
    folder = tmp_path / "disease-diagnosis"
    folder.mkdir()
    (tmp_path / "secret").write_text("no")
    (folder / "scene.png").write_bytes(b"\x89PNG")
    example = GOOD[: GOOD.index("[example]")] + "[example]\nexpect = [{}]\n"
    (folder / "solution.toml").write_text(example + 'request = [{ image = { file = "scene.png" } }]\n')
    assert read(folder).request == [{"image": "iVBORw=="}]
    assert read(folder).files == {"image": "scene.png"}
    for other in ("../secret", "absent.png"):
        (folder / "solution.toml").write_text(example + f'request = [{{ image = {{ file = "{other}" }} }}]\n')
        with pytest.raises(Invalid, match="is not in the folder"):
            read(folder)


@pytest.mark.parametrize("solution", SOLUTIONS, ids=lambda s: s.name)
def test_what_is_downloaded_has_one_address_and_a_gate_that_waits_for_it(solution: Solution) -> None:
    fetched = [source for source in solution.sources if source.kind == "downloaded"]
    waiting = [gate for gate in solution.gates if gate.terms.get("needs_download")]
    assert bool(waiting) == bool(fetched or solution.pulls)
    for source in fetched:
        assert "/master/" not in source.url
        assert "/main/" not in source.url
        assert source.licence


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(NotFound) as raised:
        CATALOGUE.get("disease-diagnoses")
    assert "disease-diagnosis" in raised.value.hint
    with pytest.raises(NotFound):
        CATALOGUE.get("../kit")


def test_one_of_your_own_has_a_name_of_its_own(tmp_path: Path) -> None:
    made = CATALOGUE.copy("fraud", tmp_path / "my-fraud")
    assert (made.name, made.folder, made.gates) == (
        "my-fraud",
        tmp_path / "my-fraud",
        CATALOGUE.get("fraud").gates,
    )
    assert CATALOGUE.own(made.folder).name == "my-fraud"
    for taken in ("my-fraud", "risk-assessment", "mine-tiny", "My Fraud"):
        with pytest.raises(Invalid):
            CATALOGUE.copy("fraud", tmp_path / taken)
    shutil.copytree(CATALOGUE.get("fraud").folder, tmp_path / "fraud")
    with pytest.raises(Invalid, match="ready solution's name"):
        CATALOGUE.own(tmp_path / "fraud")
