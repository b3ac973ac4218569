"""Notebooks as jobs, from Python: sent with their folder, executed with parameters, their output kept.

>>> from stratal.sdk import Client, notebooks
>>> job = notebooks.run(Client(), Path("study.ipynb"), {"rate": 0.1}, requirements="pandas")
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from stratal.sdk import jobs
from stratal.sdk.client import Client
from stratal.sdk.worktree import Entry, WorkTree, read_worktree

Json = dict[str, Any]
REQUIREMENTS = "papermill==2.7.0\nipykernel==7.4.0\nnbconvert>=7.17\n"
"""What executes a notebook and makes a page of it."""
_PROGRAM = Path(__file__).parent / "notebook_program.py"
_SENT = ".stratal-notebook-program.py"


def run(
    client: Client,
    notebook: Path,
    parameters: Mapping[str, object] | None = None,
    *,
    requirements: str = "",
    bucket: str | None = None,
    key: str | None = None,
    tree: WorkTree | None = None,
    **options: Any,
) -> Json:
    """Queue a job that executes the notebook; returns it, with where its output will be as ``output``.

    The working tree around the notebook is sent along (or `tree`, read before). `bucket` is made if there is none;
    `options` are those of `jobs.run`. Raises `ApiError`, and `TreeError` when the tree cannot be sent.
    """
    folder = notebook.resolve().parent
    tree = tree or read_worktree(folder)
    name = notebook.resolve().relative_to((tree.root / tree.cwd).resolve()).as_posix()
    bucket = bucket or bucket_of(client.project)
    key = key or notebook.stem
    program = Entry(f"{tree.cwd}/{_SENT}" if tree.cwd else _SENT, "100644", _PROGRAM.stat().st_size, _PROGRAM)
    argv = ["sh", "-c", f'exec python {_SENT} "$0" "$1" "$2/$STRATAL_JOB_ID" "$3"']
    job = jobs.run(
        client,
        [*argv, name, bucket, key, json.dumps(dict(parameters or {}))],
        tree=replace(tree, entries=[*tree.entries, program]),
        requirements=REQUIREMENTS + requirements,
        name=options.pop("name", None) or notebook.stem,
        **options,
    )
    return {**job, "output": {"bucket": bucket, "key": f"{key}/{job['id']}.ipynb"}}


def bucket_of(project: str) -> str:
    """The bucket that a project's executed notebooks are kept in, unless said otherwise."""
    return f"{re.sub('[^a-z0-9-]+', '-', project.lower()).strip('-')[:50]}-notebooks"
