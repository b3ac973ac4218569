"""The Hub's shapes: commits, trees and descriptions of repositories as its clients read them. Pure."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from stratal.ai.models.commits import Point
from stratal.ai.models.model import ModelFile, ModelVersion, RegisteredModel
from stratal.kernel.clock import iso
from stratal.kernel.errors import Invalid, RangeInvalid

Json = dict[str, Any]


def repo_id(project: str, name: str) -> str:
    return f"{project}/{name}"


def title(version: ModelVersion) -> str:
    """A version's first line, as a commit's title."""
    first = version.description.strip().partition("\n")[0]
    return first or f"Version {version.version}"


def info(project: str, point: Point, card: Mapping[str, Any], *, blobs: bool) -> Json:
    """A repository at one point, as ``/api/models/…`` describes it; sizes of its files only with `blobs`."""
    files = point.version.files if point.version else ()
    return {
        **summary(project, point.model, point.version, point.commit, card),
        "siblings": [sibling(file, blobs=blobs) for file in files],
        "cardData": dict(card) or None,
        "usedStorage": sum(file.size for file in files),
    }


def summary(
    project: str,
    model: RegisteredModel,
    version: ModelVersion | None,
    commit: str,
    card: Mapping[str, Any] | None = None,
) -> Json:
    """A repository in a listing."""
    name = repo_id(project, model.name)
    said: Json = {
        "_id": model.id,
        "id": name,
        "modelId": name,
        "author": project,
        "sha": commit,
        "createdAt": iso(model.created_at),
        "lastModified": iso(version.created_at if version else model.updated_at),
        "private": True,
        "disabled": False,
        "gated": False,
        "downloads": 0,
        "likes": 0,
        "tags": _tags(version, card or {}),
    }
    if version is not None and (config := version.facts.flavors.get("transformers")):
        said["config"] = config
    for key in ("pipeline_tag", "library_name"):
        if isinstance(value := (card or {}).get(key), str):
            said[key] = value
    if version is not None and "library_name" not in said and "transformers" in version.facts.flavors:
        said["library_name"] = "transformers"
    return said


def _tags(version: ModelVersion | None, card: Mapping[str, Any]) -> list[str]:
    tags = (
        [tag for tag in card.get("tags", ()) if isinstance(tag, str)]
        if isinstance(card.get("tags"), list)
        else []
    )
    if isinstance(card.get("license"), str):
        tags.append(f"license:{card['license']}")
    if version is not None:
        tags += [*version.facts.formats, *version.facts.labels]
    return tags


def sibling(file: ModelFile, *, blobs: bool) -> Json:
    if not blobs:
        return {"rfilename": file.path}
    lfs = {"sha256": file.sha256, "size": file.size, "pointerSize": len(_pointer(file))}
    return {"rfilename": file.path, "size": file.size, "blobId": _oid(file), "lfs": lfs}


def entry(file: ModelFile) -> Json:
    """A file in a tree. Every file is told as a large one, so that its checksum is a SHA-256 everywhere."""
    lfs = {"oid": file.sha256, "size": file.size, "pointerSize": len(_pointer(file))}
    return {"type": "file", "path": file.path, "size": file.size, "oid": _oid(file), "lfs": lfs}


def folder(path: str) -> Json:
    return {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(path.encode()).hexdigest()}  # noqa: S324 (a name, no proof)


def tree(files: Iterable[ModelFile], directory: str, *, recursive: bool) -> list[Json]:
    """What lies in a directory, by path: files and directories, with `recursive` also below."""
    prefix = f"{directory}/" if directory else ""
    found: dict[str, Json] = {}
    for file in files:
        if not file.path.startswith(prefix):
            continue
        rest = file.path[len(prefix) :]
        ends = [i for i, c in enumerate(rest) if c == "/"]
        for end in ends if recursive else ends[:1]:
            path = prefix + rest[:end]
            found[path] = folder(path)
        if recursive or not ends:
            found[file.path] = entry(file)
    return [found[path] for path in sorted(found)]


def commit(point: Point) -> Json:
    """A line of the history."""
    version = point.version
    if version is None:
        return {
            "id": point.commit,
            "title": "initial commit",
            "message": "",
            "date": iso(point.model.created_at),
            "authors": [{"user": point.model.created_by}],
        }
    rest = version.description.strip().partition("\n")[2].strip()
    return {
        "id": point.commit,
        "title": title(version),
        "message": rest,
        "date": iso(version.created_at),
        "authors": [{"user": version.created_by}],
    }


def git_blob(data: bytes) -> str:
    """The name git gives to a file with these bytes, by which clients see that it has not changed."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()  # noqa: S324 (git's naming)


def _pointer(file: ModelFile) -> bytes:
    """What git keeps in place of a large file (https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md)."""
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{file.sha256}\nsize {file.size}\n"
    return text.encode()


def _oid(file: ModelFile) -> str:
    return git_blob(_pointer(file))


def byte_range(header: str, size: int) -> tuple[int, int] | None:
    """(start, length) that a Range header asks for; None for the whole file, also where it cannot be read.

    Raises `RangeInvalid` when it lies outside (RFC 9110 §14).
    """
    unit, _, span = header.strip().partition("=")
    first, dash, last = span.strip().partition("-")
    if unit.strip().lower() != "bytes" or not dash or "," in span:
        return None
    first, last = first.strip(), last.strip()
    if not (first or last) or not all(
        part == "" or (part.isascii() and part.isdigit()) for part in (first, last)
    ):
        return None
    if len(first) > 19 or len(last) > 19:
        return None
    if not first:
        length = min(int(last), size)
        start = size - length
    else:
        start = int(first)
        if last and int(last) < start:
            return None
        length = min(int(last) if last else size - 1, size - 1) - start + 1
    if length <= 0 or start >= size:
        raise RangeInvalid(
            f"The file has {size} bytes; {header[:60]!r} lies outside.", reason="range_invalid", size=size
        )
    return start, length


def text(body: Mapping[str, Any], key: str, default: str = "") -> str:
    """A text of a JSON object. Raises `Invalid` for another type."""
    value = body.get(key)
    if value is None:
        return default
    if not isinstance(value, str):
        raise Invalid(f"{key} must be text.", reason="bad_request")
    return value
