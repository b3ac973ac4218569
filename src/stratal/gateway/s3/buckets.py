"""Operations on buckets."""

from stratal.data.objects.model import BucketKind, encode_key
from stratal.gateway.s3.answers import Answer, empty, xml
from stratal.gateway.s3.call import Call
from stratal.gateway.s3.errors import code_of, refusal
from stratal.gateway.s3.headers import refuse_unserved
from stratal.gateway.s3.xml import Markup, children, document, element, parse, text_of, timestamp
from stratal.kernel.errors import StratalError

REGION = "us-east-1"
MAX_DELETES = 1000


async def list_buckets(call: Call) -> Answer:
    """ListBuckets: the key's project's, without the one that holds its tables."""
    query = call.request.query
    prefix, after = query.get("prefix", ""), query.get("continuation-token", "")
    limit = call.request.number("max-buckets", 10_000)
    found = [b for b in await call.objects.list_buckets(call.who) if b.kind is BucketKind.USER]
    found = [bucket for bucket in found if bucket.name.startswith(prefix) and bucket.name > after]
    page = found[:limit]
    entries = [
        element(
            "Bucket",
            element("Name", bucket.name),
            element("CreationDate", timestamp(bucket.created_at)),
            element("BucketRegion", REGION),
        )
        for bucket in page
    ]
    token = element("ContinuationToken", page[-1].name) if page and len(found) > limit else ""
    owner = element("Owner", element("ID", call.who.project_id), element("DisplayName", call.who.project))
    return xml(document("ListAllMyBucketsResult", element("Buckets", *entries), owner, token))


async def create_bucket(call: Call) -> Answer:
    """CreateBucket. Every location constraint is accepted: there is one place."""
    refuse_unserved(call.request)
    body = await call.document()
    if body.strip():
        parse(body, "CreateBucketConfiguration")
    bucket = await call.objects.create_bucket(call.who, call.request.bucket)
    return empty(200, [(b"location", f"/{bucket.name}".encode()), (b"content-length", b"0")])


async def head_bucket(call: Call) -> Answer:
    await call.objects.readable_bucket(call.who, call.request.bucket)
    return empty(200, [(b"x-amz-bucket-region", REGION.encode()), (b"content-type", b"application/xml")])


async def delete_bucket(call: Call) -> Answer:
    await call.objects.delete_bucket(call.who, call.request.bucket)
    return empty(204, [])


async def get_location(call: Call) -> Answer:
    """GetBucketLocation; us-east-1 is spelt as nothing."""
    await call.objects.readable_bucket(call.who, call.request.bucket)
    return xml(document("LocationConstraint"))


async def get_versioning(call: Call) -> Answer:
    """GetBucketVersioning: never enabled."""
    await call.objects.readable_bucket(call.who, call.request.bucket)
    return xml(document("VersioningConfiguration"))


async def delete_objects(call: Call) -> Answer:
    """DeleteObjects: up to 1,000 keys; one that cannot be deleted does not keep the others."""
    tree = parse(await call.document(), "Delete")
    wanted = list(children(tree, "Object"))
    if not 1 <= len(wanted) <= MAX_DELETES:
        raise refusal("MalformedXML", f"One to {MAX_DELETES} keys can be deleted at once, not {len(wanted)}.")
    keys: list[str] = []
    errors: list[Markup] = []
    for item in wanted:
        key = text_of(item, "Key")
        if key is None:
            raise refusal("MalformedXML", "An Object has no Key.")
        try:
            encode_key(key)
            if text_of(item, "VersionId") not in {None, "", "null"}:
                raise refusal("NotImplemented", "Versions are not deleted one by one.")
            if any(text_of(item, name) for name in ("ETag", "LastModifiedTime", "Size")):
                raise refusal("NotImplemented", "Conditions on batched deletes are not served.")
        except StratalError as error:
            errors.append(_failed(key, error))
        else:
            keys.append(key)
    await call.objects.delete_many(call.who, call.request.bucket, keys)
    quiet = (text_of(tree, "Quiet") or "").strip().lower() == "true"
    deleted = [] if quiet else [element("Deleted", element("Key", key)) for key in keys]
    return xml(document("DeleteResult", *deleted, *errors))


def _failed(key: str, error: StratalError) -> Markup:
    return element(
        "Error", element("Key", key), element("Code", code_of(error)), element("Message", error.message)
    )
