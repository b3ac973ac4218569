"""The register of faces: nobody without consent, nothing legible without the key, one person at a time, deletable."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from stratal.ai.solutions.catalogue import Catalogue

pytest.importorskip("cryptography")
WORDS, PHRASE = "I agree to be verified at the door.", "a passphrase of some length"
ONE, OTHER = np.array([1.0, 0.0, 0.2]), np.array([0.0, 1.0, 0.2])


@pytest.fixture(scope="module")
def enrolment() -> ModuleType:
    path = Catalogue().root / "facial-recognition" / "enrolment.py"
    spec = importlib.util.spec_from_file_location("enrolment_of_faces", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_a_person_who_agreed_is_verified_and_consent_can_be_read_again(
    tmp_path: Path, enrolment: ModuleType
) -> None:
    register = enrolment.Register.opened(tmp_path / "r", PHRASE)
    register.enrol("Ada", ONE, WORDS)
    again = enrolment.Register.opened(tmp_path / "r", PHRASE)
    assert again.verify("Ada", ONE) == pytest.approx(1)
    assert again.verify("Ada", OTHER) < 0.1
    assert again.consent("Ada")[0] == WORDS


def test_nobody_is_enrolled_without_consent_or_twice(tmp_path: Path, enrolment: ModuleType) -> None:
    register = enrolment.Register.opened(tmp_path / "r", PHRASE)
    with pytest.raises(enrolment.Refused, match="consent"):
        register.enrol("Ada", ONE, " ")
    register.enrol("Ada", ONE, WORDS)
    with pytest.raises(enrolment.Refused, match="already"):
        register.enrol("Ada", OTHER, WORDS)
    with pytest.raises(enrolment.Refused, match="Nobody is enrolled as Grace"):
        register.verify("Grace", ONE)


def test_nothing_is_legible_without_the_key_and_records_cannot_be_swapped(
    tmp_path: Path, enrolment: ModuleType
) -> None:
    folder = tmp_path / "r"
    register = enrolment.Register.opened(folder, PHRASE)
    register.enrol("Ada", ONE, WORDS)
    register.enrol("Grace", OTHER, WORDS)
    everything = b"".join(path.name.encode() + path.read_bytes() for path in folder.iterdir())
    assert b"Ada" not in everything
    assert b"agree" not in everything
    with pytest.raises(enrolment.Refused, match="not the passphrase"):
        enrolment.Register.opened(folder, PHRASE + "!")
    with pytest.raises(enrolment.Refused, match="fewer than 12"):
        enrolment.Register.opened(folder, "short")
    ada, grace = register._path("Ada"), register._path("Grace")
    ada.write_bytes(grace.read_bytes())
    with pytest.raises(enrolment.Refused, match="somebody else's"):
        register.verify("Ada", OTHER)


def test_who_is_forgotten_leaves_nothing(tmp_path: Path, enrolment: ModuleType) -> None:
    folder = tmp_path / "r"
    register = enrolment.Register.opened(folder, PHRASE)
    register.enrol("Ada", ONE, WORDS)
    assert register.forget("Ada") is True
    assert register.forget("Ada") is False
    assert [path.name for path in folder.iterdir()] == ["register.json"]
