"""A notebook run as a job: with parameters, its output kept, also when a cell fails."""

import json
from pathlib import Path

import pytest

from platform_server import PlatformServer

pytestmark = pytest.mark.soak  # an environment of sixty packages


def notebook(folder: Path, *sources: str) -> Path:
    cells = [
        {
            "id": f"c{number}",
            "cell_type": "code",
            "metadata": {"tags": ["parameters"]} if number == 0 else {},
            "source": source,
            "outputs": [],
            "execution_count": None,
        }
        for number, source in enumerate(sources)
    ]
    path = folder / "study.ipynb"
    path.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}))
    return path


def test_a_notebook_runs_with_parameters_and_its_output_is_kept(
    server: PlatformServer, tmp_path: Path
) -> None:
    project = server.project()
    path = notebook(tmp_path, "x = 0\nword = ''", "print(word, x + 1)")
    options = ("--project", project)
    asked = ("notebook", "run", str(path), "--param", "x=41", "--param", "word=it is", *options)
    job = server.json(*asked, timeout=600)
    assert job["state"] == "succeeded"
    place = f"{project}-notebooks/study/{job['id']}"
    executed = json.loads(server.cli("objects", "get", f"{place}.ipynb", "-", *options).stdout)
    assert "it is 42" in json.dumps(executed["cells"][-1]["outputs"])
    assert "it is 42" in server.cli("objects", "get", f"{place}.html", "-", *options).stdout

    failing = notebook(tmp_path, "x = 0", "print('before')", "raise ValueError('no such rate')")
    done = server.cli("notebook", "run", str(failing), *options, "--json", check=False, timeout=600)
    assert done.returncode == 1
    assert "ValueError" in done.stdout + done.stderr
    place = f"{project}-notebooks/study/{json.loads(done.stdout)['id']}"
    executed = json.loads(server.cli("objects", "get", f"{place}.ipynb", "-", *options).stdout)
    assert "no such rate" in json.dumps(executed["cells"])
