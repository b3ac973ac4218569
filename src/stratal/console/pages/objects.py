"""Buckets and objects: the list, a bucket by its prefixes, one object."""

from shlex import quote

from starlette.responses import Response

from stratal.console.listing import Column, arrange
from stratal.console.native import Refused, segment
from stratal.console.render import Ways
from stratal.console.view import View

_PAGE = 200

BUCKETS = (
    Column("name", "Bucket", lambda bucket: bucket["name"]),
    Column("kind", "Kind", lambda bucket: bucket.get("kind")),
    Column("created", "Created", lambda bucket: bucket.get("created_at")),
)


async def buckets(view: View) -> Response:
    answer = await view.get("/buckets")
    return view.page(
        "buckets.html",
        "Objects",
        at="buckets",
        live="bucket.",
        ways=Ways(
            cli=f"stratal buckets {view.flag}",
            python="import boto3  # with the variables of `stratal env`\n\nboto3.client('s3').list_buckets()['Buckets']",
        ),
        listing=arrange(answer["buckets"], BUCKETS, view.query),
    )


async def bucket(view: View) -> Response:
    """One level of a bucket, or with ``?object=`` one object of it."""
    name = view.part("bucket")
    if "object" in view.query:
        return await _object(view, name, view.query["object"])
    prefix, after = view.query.get("prefix", ""), view.query.get("after", "")
    page = await view.get(
        f"/buckets/{segment(name)}/objects", prefix=prefix, delimiter="/", after=after, limit=_PAGE
    )
    return view.page(
        "bucket.html",
        name,
        at="buckets",
        live="object.",
        ways=Ways(
            cli=f"stratal objects ls {quote(f'{name}/{prefix}')} {view.flag}",
            python="import boto3  # with the variables of `stratal env`\n\n"
            f"boto3.client('s3').list_objects_v2(Bucket={name!r}, Prefix={prefix!r}, Delimiter='/')",
        ),
        bucket=name,
        prefix=prefix,
        after=after,
        steps=_steps(prefix),
        objects=page["objects"],
        prefixes=page["prefixes"],
        next_after=page.get("next_after"),
    )


async def _object(view: View, bucket: str, key: str) -> Response:
    page = await view.get(f"/buckets/{segment(bucket)}/objects", prefix=key, limit=1)
    found = next((item for item in page["objects"] if item["name"] == key), None)
    if found is None:
        raise Refused(
            404,
            "no_such_key",
            f"There is no object {key[:200]!r} in {bucket}.",
            "It may have been deleted: look at the bucket.",
        )
    return view.page(
        "object.html",
        key.rstrip("/").rsplit("/", 1)[-1] or key,
        at="buckets",
        live="object.",
        ways=Ways(
            cli=f"stratal objects get {quote(f'{bucket}/{key}')} {view.flag}",
            python="import boto3  # with the variables of `stratal env`\n\n"
            f"boto3.client('s3').get_object(Bucket={bucket!r}, Key={key!r})['Body'].read()",
        ),
        bucket=bucket,
        object=found,
        steps=_steps(key.rpartition("/")[0] + "/" if "/" in key else ""),
        download=f"/api/v1{view.base}/buckets/{segment(bucket)}/object?key={segment(key)}",
    )


def _steps(prefix: str) -> list[tuple[str, str]]:
    """The levels above: (name, prefix up to and with it)."""
    parts = prefix.split("/")[:-1]
    return [(part, "/".join(parts[: index + 1]) + "/") for index, part in enumerate(parts)]
