"""Vendored files are what their manifest says; pages have no inline script or style."""

import hashlib
import json
import re
from pathlib import Path

import pytest

import stratal.console

pytestmark = pytest.mark.fast

ROOM = Path(stratal.console.__file__).parent
VENDOR = ROOM / "static" / "vendor"
MANIFEST = json.loads((VENDOR / "manifest.json").read_text())["files"]
TEMPLATES = sorted((ROOM / "templates").glob("*.html"))


def test_every_vendored_file_is_in_the_manifest_and_every_licence_is_kept() -> None:
    listed = {entry["file"] for entry in MANIFEST}
    assert {path.name for path in VENDOR.iterdir() if path.is_file()} == listed | {"manifest.json"}
    kept = {path.name for path in (VENDOR / "licences").iterdir()}
    assert kept == {Path(entry["licence_file"]).name for entry in MANIFEST}


@pytest.mark.parametrize("entry", MANIFEST, ids=lambda entry: entry["file"])
def test_a_vendored_file_is_byte_for_byte_what_was_published(entry: dict[str, str]) -> None:
    content = (VENDOR / entry["file"]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == entry["sha256"]
    assert len(content) == entry["bytes"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", entry["version"])
    assert entry["licence"] in {"0BSD", "MIT", "OFL-1.1"}
    assert len((VENDOR / entry["licence_file"]).read_text()) > 500


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_templates_hold_no_inline_script_style_or_handler(template: Path) -> None:
    text = template.read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)", text)
    assert not re.search(r"<style\b|\sstyle=|\son[a-z]+=|javascript:", text)
    assert not re.search(r"https?://", text), "everything is served from here"


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_no_template_steps_around_escaping(template: Path) -> None:
    assert not re.search(r"\|\s*(safe|tojson|forceescape)\b|autoescape", template.read_text())


def test_styles_and_scripts_refer_only_to_files_beside_them() -> None:
    for path in (*(ROOM / "static").glob("*.css"), *(ROOM / "static").glob("*.js")):
        text = path.read_text()
        assert not re.search(r"https?://|//cdn|\beval\(|new Function|innerHTML\s*=", text), path.name
        for name in re.findall(r"url\(\"?([^)\"]+)", text):
            assert (path.parent / name).is_file()
