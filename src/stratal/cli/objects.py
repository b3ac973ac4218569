"""``stratal buckets`` and ``stratal objects``."""

import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import click

from stratal.cli.output import human_bytes, json_option, print_json, print_table, project_option
from stratal.sdk import Client

_CHUNK = 1024 * 1024


@click.group(
    invoke_without_command=True, epilog="Examples: stratal buckets · stratal buckets create measurements"
)
@project_option
@json_option
@click.pass_context
def buckets(ctx: click.Context, project: str | None, as_json: bool) -> None:
    """List, create and remove buckets."""
    if ctx.invoked_subcommand is None:
        _list_buckets(project, as_json)


@buckets.command("list")
@project_option
@json_option
def list_buckets(project: str | None, as_json: bool) -> None:
    """List the project's buckets."""
    _list_buckets(project, as_json)


def _list_buckets(project: str | None, as_json: bool) -> None:
    client = Client(project=project)
    answer = client.get(client.path("/buckets"))
    if as_json:
        print_json(answer)
        return
    print_table(
        ["Bucket", "Kind", "Created"],
        [(b["name"], b["kind"], b["created_at"]) for b in answer["buckets"]],
        empty="No buckets. Make one with: stratal buckets create NAME",
    )


@buckets.command("create")
@click.argument("name")
@project_option
@json_option
def create_bucket(name: str, project: str | None, as_json: bool) -> None:
    """Create the bucket NAME (3 to 63 lower-case letters, digits, '-' or '.')."""
    client = Client(project=project)
    made = client.post(client.path("/buckets"), {"name": name})
    if as_json:
        print_json(made)
    else:
        click.echo(f"Created bucket {made['name']}.")


@buckets.command("remove")
@click.argument("name")
@project_option
@json_option
def remove_bucket(name: str, project: str | None, as_json: bool) -> None:
    """Remove the empty bucket NAME."""
    client = Client(project=project)
    client.delete(client.path(f"/buckets/{quote(name, safe='')}"))
    if as_json:
        print_json({"name": name, "removed": True})
    else:
        click.echo(f"Removed bucket {name}.")


@click.group(
    epilog="Examples: stratal objects ls measurements/2026/ · stratal objects put data.csv measurements/data.csv"
)
def objects() -> None:
    """List, get, put and remove objects; an address is BUCKET/KEY or s3://BUCKET/KEY."""


@objects.command("ls")
@click.argument("address", metavar="BUCKET[/PREFIX]")
@click.option("--folders", is_flag=True, help="Roll keys up at '/', as folders would.")
@project_option
@json_option
def list_objects(address: str, folders: bool, project: str | None, as_json: bool) -> None:
    """List the objects of a bucket whose keys begin with PREFIX."""
    bucket, prefix = _split(address)
    client = Client(project=project)
    found: list[dict[str, Any]] = []
    prefixes: list[str] = []
    for page in _pages(client, bucket, prefix, "/" if folders else ""):
        found += page["objects"]
        prefixes += page["prefixes"]
    if as_json:
        print_json({"objects": found, "prefixes": prefixes})
        return
    rows: list[tuple[object, ...]] = [(prefix, "", "") for prefix in prefixes]
    rows += [(o["name"], human_bytes(o["size"]), o["created_at"]) for o in found]
    rows.sort(key=lambda row: str(row[0]).encode())
    print_table(["Key", "Size", "Created"], rows, empty="Nothing there.", right=(1,))


@objects.command("get")
@click.argument("address", metavar="BUCKET/KEY")
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=True, allow_dash=True))
@project_option
def get_object(address: str, file: Path | None, project: str | None) -> None:
    """Write an object to FILE (default: its last name, here; '-' for standard output)."""
    bucket, key = _split(address, key_needed=True)
    client = Client(project=project)
    if file is not None and str(file) == "-":
        _download(client, bucket, key, sys.stdout.buffer)
        return
    target = file or Path(_last_name(key))
    if target.is_dir():
        target /= _last_name(key)
    scratch = target.with_name(f".{target.name[:200]}.part")
    try:
        with scratch.open("wb") as out:
            _download(client, bucket, key, out)
        scratch.replace(target)
    finally:
        with suppress(FileNotFoundError):
            scratch.unlink()


@objects.command("put")
@click.argument("file", type=click.File("rb"))
@click.argument("address", metavar="BUCKET/KEY")
@project_option
@json_option
def put_object(file: IO[bytes], address: str, project: str | None, as_json: bool) -> None:
    """Store FILE ('-' for standard input) as an object; a KEY ending in '/' gets the file's name."""
    bucket, key = _split(address)
    if not key or key.endswith("/"):
        key += Path(file.name).name
    client = Client(project=project)
    made = client.request("PUT", _object_path(client, bucket), params={"key": key}, content=_chunks(file))
    if as_json:
        print_json(made)
    else:
        click.echo(f"Stored {bucket}/{key} ({human_bytes(made['size'])}), version {made['version']}.")


@objects.command("rm")
@click.argument("address", metavar="BUCKET/KEY")
@click.option("-r", "--recursive", is_flag=True, help="Remove every object whose key begins so.")
@project_option
@json_option
def remove_object(address: str, recursive: bool, project: str | None, as_json: bool) -> None:
    """Remove an object, bytes and all."""
    bucket, key = _split(address, key_needed=not recursive)
    client = Client(project=project)
    keys = [key]
    if recursive:
        keys = [o["name"] for page in _pages(client, bucket, key, "") for o in page["objects"]]
    for name in keys:
        client.request("DELETE", _object_path(client, bucket), params={"key": name})
    if as_json:
        print_json({"removed": [{"name": name} for name in keys]})
    else:
        click.echo(f"Removed {len(keys)} object{'' if len(keys) == 1 else 's'}.")


def _split(address: str, *, key_needed: bool = False) -> tuple[str, str]:
    bucket, _, key = address.removeprefix("s3://").partition("/")
    if not bucket or (key_needed and not key):
        raise click.UsageError(f"{address!r} is not BUCKET/KEY.")
    return bucket, key


def _last_name(key: str) -> str:
    """The key's last part as a file name; never one that leaves the directory."""
    name = key.rstrip("/").rsplit("/", 1)[-1]
    return name if name not in {"", ".", ".."} else "object"


def _object_path(client: Client, bucket: str) -> str:
    return client.path(f"/buckets/{quote(bucket, safe='')}/object")


def _pages(client: Client, bucket: str, prefix: str, delimiter: str) -> Iterator[dict[str, Any]]:
    after = ""
    path = client.path(f"/buckets/{quote(bucket, safe='')}/objects")
    while True:
        page = client.get(path, prefix=prefix, delimiter=delimiter, after=after)
        yield page
        if page["next_after"] is None:
            return
        after = page["next_after"]


def _download(client: Client, bucket: str, key: str, out: IO[bytes]) -> None:
    with client.stream("GET", _object_path(client, bucket), params={"key": key}) as response:
        for chunk in response.iter_bytes(_CHUNK):
            out.write(chunk)


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK):
        yield chunk
