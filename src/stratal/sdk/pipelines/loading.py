"""Importing a pipeline's file where it runs, and finding what is meant in it."""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

from stratal.sdk.pipelines.authoring import Pipeline, Step, found_in


class NotFound(Exception):
    """The file has no such pipeline or step."""


def load(file: str) -> ModuleType:
    """Import `file` (relative to the working directory) as a module, its folder first on the path."""
    path = Path(file).resolve()
    if not path.is_file():
        raise NotFound(f"There is no file {file}.")
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def pipeline_of(module: ModuleType, name: str) -> Pipeline:
    """The pipeline called `name`, or with "" the only one. Raises `NotFound`."""
    found = found_in(module).pipelines
    if name:
        if name in found:
            return found[name]
        raise NotFound(
            f"{module.__name__}.py has no pipeline {name!r}; it has {', '.join(sorted(found)) or 'none'}."
        )
    if len(found) == 1:
        return next(iter(found.values()))
    if not found:
        raise NotFound(f"{module.__name__}.py has no pipeline: decorate a function with @stratal.pipeline.")
    raise NotFound(
        f"{module.__name__}.py has several pipelines ({', '.join(sorted(found))}): say which, FILE:NAME."
    )


def step_of(module: ModuleType, name: str) -> Step:
    """The step called `name` at the top of the module. Raises `NotFound`."""
    for step in found_in(module).steps.values():
        if step.name == name:
            return step
    raise NotFound(
        f"{module.__name__}.py has no step {name!r} at its top: a step that is a job of its own is looked up there."
    )


def root_of(module: ModuleType) -> Path:
    """The folder whose files are the project's own code: that of the snapshot, or of the file."""
    root = os.environ.get("STRATAL_CODE_ROOT")
    return Path(root).resolve() if root else Path(str(module.__file__)).resolve().parent


def settle_paths() -> None:
    """Make the path by which this package was found hold in every folder, for processes started from here."""
    place = str(Path(__file__).resolve().parents[3])
    rest = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    kept = [str(Path(part).resolve()) for part in rest]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([place, *kept]))
    if "STRATAL_CODE_ROOT" in os.environ:
        os.environ["STRATAL_CODE_ROOT"] = str(Path(os.environ["STRATAL_CODE_ROOT"]).resolve())
