"""Namespaces, bad input and other people's things, through pyiceberg and the protocol itself."""

from typing import Any

import httpx
import pyarrow as pa
import pytest
from pyiceberg.catalog import load_catalog
from pyiceberg.exceptions import (
    BadRequestError,
    ForbiddenError,
    NamespaceAlreadyExistsError,
    NamespaceNotEmptyError,
    NoSuchNamespaceError,
    NoSuchTableError,
    RESTError,
    UnauthorizedError,
)

from clients.iceberg.conftest import Place, properties
from platform_server import PlatformServer

SCHEMA = pa.schema([("x", pa.int64())])


def test_namespaces(place: Place) -> None:
    catalog = place.catalog
    catalog.create_namespace("one", {"owner": "me", "count": 3})
    assert catalog.load_namespace_properties("one") == {"owner": "me", "count": "3"}
    with pytest.raises(NamespaceAlreadyExistsError):
        catalog.create_namespace("one")
    done = catalog.update_namespace_properties("one", removals={"owner", "none"}, updates={"new": "ü"})
    assert (done.removed, done.updated, done.missing) == (["owner"], ["new"], ["none"])
    assert catalog.load_namespace_properties("one") == {"count": "3", "new": "ü"}
    catalog.create_namespace(("one", "inner", "core"))
    assert ("one",) in catalog.list_namespaces()
    assert catalog.list_namespaces("one") == [("one", "inner")]
    assert catalog.list_namespaces(("one", "inner")) == [("one", "inner", "core")]
    assert catalog.namespace_exists(("one", "inner", "core"))
    catalog.create_table(("one", "inner", "core", "t"), SCHEMA).append(pa.table({"x": [1]}))
    assert place.sql("select x from one.inner.core.t")["rows"] == [[1]]
    with pytest.raises(NamespaceNotEmptyError):
        catalog.drop_namespace("one")
    catalog.drop_table(("one", "inner", "core", "t"))
    for name in (("one", "inner", "core"), ("one", "inner"), ("one",)):
        catalog.drop_namespace(name)
    assert not catalog.namespace_exists("one")
    with pytest.raises(NoSuchNamespaceError):
        catalog.drop_namespace("one")
    with pytest.raises(NoSuchNamespaceError):
        catalog.list_tables("one")


def test_odd_names_are_kept_apart(place: Place) -> None:
    catalog = place.catalog
    catalog.create_namespace("odd ü+%2f&#?")
    for name in ("a b", "ünï", "x%2Fy", "q?z#"):
        catalog.create_table(("odd ü+%2f&#?", name), SCHEMA).append(pa.table({"x": [len(name)]}))
    listed = {name[-1] for name in catalog.list_tables(("odd ü+%2f&#?",))}
    assert listed == {"a b", "ünï", "x%2Fy", "q?z#"}
    assert catalog.load_table(("odd ü+%2f&#?", "x%2Fy")).scan().to_arrow()["x"].to_pylist() == [5]
    assert place.sql('select x from "odd ü+%2f&#?"."ünï"')["rows"] == [[3]]


@pytest.mark.parametrize(
    "name",
    ["", "a/b", "..", "x\0y", "line\nbreak", "n" * 2000, " lead", "dotted.name", "back\\slash", "\x7f"],
)
def test_bad_names_are_refused(place: Place, name: str) -> None:
    with place.client() as client:
        path = f"/iceberg/v1/{place.name}/namespaces"
        answer = client.post(path, json={"namespace": [name]})
        assert answer.status_code == 400
        assert answer.json()["error"]["type"] == "BadRequestException"
        place.catalog.create_namespace_if_not_exists("named")
        body = {"name": name, "schema": {"type": "struct", "fields": [], "schema-id": 0}}
        answer = client.post(f"{path}/named/tables", json=body)
        assert answer.status_code == 400
    assert place.catalog.list_tables("named") == []


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("namespaces", b"{", 400),
        ("namespaces", b"[]", 400),
        ("namespaces", b'{"namespace": "text"}', 400),
        ("namespaces", b'{"namespace": []}', 400),
        ("namespaces/none/tables", b'{"name": "t", "schema": {"type": "struct", "fields": []}}', 404),
        ("namespaces/bad/tables", b'{"name": "u", "schema": {"type": "nonsense"}}', 400),
        ("namespaces/bad/tables", b'{"name": "u"}', 400),
        ("namespaces/bad/tables/none", b'{"requirements": [], "updates": []}', 404),
        ("namespaces/bad/tables/t", b'{"requirements": [{"type": "no-such"}], "updates": []}', 400),
        ("namespaces/bad/tables/t", b'{"requirements": [], "updates": [{"action": "fly"}]}', 400),
        (
            "namespaces/bad/tables/t",
            b'{"updates": [{"action": "set-location", "location": "file:///etc"}]}',
            400,
        ),
        (
            "namespaces/bad/tables/t",
            b'{"updates": [{"action": "set-location", "location": "s3://other/x"}]}',
            403,
        ),
        (
            "namespaces/bad/tables/t",
            b'{"updates": [{"action": "remove-snapshots", "snapshot-ids": [5]}]}',
            400,
        ),
        ("namespaces/bad/register", b'{"name": "r", "metadata-location": "s3://other/x.json"}', 403),
        ("namespaces/bad/views", b"{}", 501),
        ("namespaces/bad/tables/t/plan", b"{}", 501),
        ("nonsense", b"{}", 404),
        ("namespaces/%ff", b"{}", 400),
    ],
)
def test_nonsense_changes_nothing(place: Place, path: str, body: bytes, status: int) -> None:
    catalog = place.catalog
    catalog.create_namespace_if_not_exists("bad")
    table = catalog.create_table_if_not_exists("bad.t", SCHEMA)
    with place.client() as client:
        answer = client.post(f"/iceberg/v1/{place.name}/{path}", content=body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert (error["code"], bool(error["message"])) == (status, True)
    assert "Traceback" not in answer.text
    assert catalog.load_table("bad.t").metadata_location == table.metadata_location


def test_a_location_elsewhere_is_refused(place: Place) -> None:
    catalog = place.catalog
    catalog.create_namespace_if_not_exists("there")
    for location in ("file:///tmp/x", "/tmp/x", "gs://b/x"):
        with pytest.raises(BadRequestError):
            catalog.create_table("there.t", SCHEMA, location=location)
    with pytest.raises(ForbiddenError):  # whether there is such a bucket or not
        catalog.create_table("there.t", SCHEMA, location="s3://someone-else/x")
    own = catalog.create_table("there.own", SCHEMA)
    with pytest.raises(BadRequestError):
        catalog.create_table("there.nested", SCHEMA, location=own.location() + "/inside")
    assert catalog.list_tables("there") == [("there", "own")]


def test_a_format_that_is_not_kept_is_refused(place: Place) -> None:
    catalog = place.catalog
    catalog.create_namespace("third")
    with pytest.raises(BadRequestError, match=r"[Vv]3|version"):
        catalog.create_table("third.t", SCHEMA, properties={"format-version": "3"})
    catalog.create_table("third.t", SCHEMA)
    upgrade = {"requirements": [], "updates": [{"action": "upgrade-format-version", "format-version": 3}]}
    with place.client() as client:
        answer = client.post(f"/iceberg/v1/{place.name}/namespaces/third/tables/t", json=upgrade)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "BadRequestException")
    assert catalog.load_table("third.t").format_version == 2


def test_a_commit_cannot_name_files_that_are_not_there(place: Place) -> None:
    catalog = place.catalog
    catalog.create_namespace_if_not_exists("there")
    table = catalog.create_table("there.hollow", SCHEMA)
    snapshot = {
        "snapshot-id": 7, "sequence-number": 1, "timestamp-ms": 1_900_000_000_000, "schema-id": 0,
        "manifest-list": table.location() + "/metadata/none.avro", "summary": {"operation": "append"},
    }  # fmt: skip
    with place.client() as client:
        answer = client.post(
            f"/iceberg/v1/{place.name}/namespaces/there/tables/hollow",
            json={"requirements": [], "updates": [{"action": "add-snapshot", "snapshot": snapshot}]},
        )
    assert answer.status_code == 400
    assert "none.avro" in answer.json()["error"]["message"]
    assert catalog.load_table("there.hollow").snapshots() == []


def test_two_tables_change_together_or_not_at_all(place: Place) -> None:
    catalog = place.catalog
    catalog.create_namespace_if_not_exists("pair")
    one, two = (catalog.create_table(f"pair.{name}", SCHEMA) for name in ("one", "two"))

    def change(table: str, uuid: str) -> dict[str, Any]:
        return {
            "identifier": {"namespace": ["pair"], "name": table},
            "requirements": [{"type": "assert-table-uuid", "uuid": uuid}],
            "updates": [{"action": "set-properties", "updates": {"step": uuid}}],
        }

    uuids = [str(one.metadata.table_uuid), str(two.metadata.table_uuid)]
    with place.client() as client:
        path = f"/iceberg/v1/{place.name}/transactions/commit"
        wrong = client.post(path, json={"table-changes": [change("one", uuids[0]), change("two", uuids[0])]})
        assert (wrong.status_code, wrong.json()["error"]["type"]) == (409, "CommitFailedException")
        assert "step" not in catalog.load_table("pair.one").properties
        right = client.post(path, json={"table-changes": [change("one", uuids[0]), change("two", uuids[1])]})
        assert right.status_code == 204
    assert [catalog.load_table(f"pair.{n}").properties["step"] for n in ("one", "two")] == uuids


def test_pages(place: Place) -> None:
    small = load_catalog("default", **properties(place.env), **{"rest-page-size": "2"})
    small.create_namespace("paged")
    for number in range(5):
        small.create_table(f"paged.t{number}", SCHEMA)
        small.create_namespace(("paged", f"n{number}"))
    assert small.list_tables("paged") == [("paged", f"t{number}") for number in range(5)]
    assert small.list_namespaces("paged") == [("paged", f"n{number}") for number in range(5)]


def test_views_are_none(place: Place) -> None:
    place.catalog.create_namespace_if_not_exists("viewless")
    assert place.catalog.list_views("viewless") == []
    with place.client() as client:
        base = f"/iceberg/v1/{place.name}/namespaces/viewless/views"
        assert client.get(base).json() == {"identifiers": []}
        assert client.get(f"{base}/v").json()["error"]["type"] == "NoSuchViewException"
        assert client.head(f"{base}/v").status_code == 404


def test_metrics_are_taken_and_credentials_given(place: Place) -> None:
    place.catalog.create_namespace_if_not_exists("extra")
    table = place.catalog.create_table("extra.t", SCHEMA)
    with place.client() as client:
        base = f"/iceberg/v1/{place.name}/namespaces/extra/tables"
        assert client.post(f"{base}/t/metrics", json={"report-type": "scan-report"}).status_code == 204
        assert client.post(f"{base}/none/metrics", json={}).status_code == 404
        given = client.get(f"{base}/t/credentials").json()["storage-credentials"]
    assert table.location().startswith(given[0]["prefix"])
    assert given[0]["config"]["s3.access-key-id"] == place.env["AWS_ACCESS_KEY_ID"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_credential_instead_of_a_token(place: Place) -> None:
    plain = {k: v for k, v in properties(place.env).items() if k in {"type", "uri", "warehouse"}}
    pair = f"{place.env['AWS_ACCESS_KEY_ID']}:{place.env['AWS_SECRET_ACCESS_KEY']}"
    catalog = load_catalog("other", **plain, credential=pair)
    catalog.create_namespace_if_not_exists("by_credential")
    table = catalog.create_table("by_credential.t", SCHEMA)
    table.append(pa.table({"x": [1, 2]}))
    assert table.scan().to_arrow().num_rows == 2
    wrong = httpx.post(
        f"{place.env['STRATAL_URL']}/iceberg/v1/oauth/tokens",
        data={"grant_type": "client_credentials", "client_id": "st1k" + "0" * 20, "client_secret": "x"},
    )
    assert (wrong.status_code, wrong.json()["error"]) == (401, "invalid_client")
    other = httpx.post(f"{place.env['STRATAL_URL']}/iceberg/v1/oauth/tokens", data={"grant_type": "magic"})
    assert (other.status_code, other.json()["error"]) == (400, "unsupported_grant_type")


# -- other people's things ---------------------------------------------------------------------------


def test_another_projects_tables_are_not_there(place: Place, server: PlatformServer) -> None:
    place.catalog.create_namespace_if_not_exists("private")
    table = place.catalog.create_table("private.t", SCHEMA)
    table.append(pa.table({"x": [1]}))
    other = server.project()
    stranger = properties(server.env(other))
    with pytest.raises((RESTError, NoSuchTableError)):
        load_catalog("default", **{**stranger, "warehouse": place.name})
    catalog = load_catalog("default", **stranger)
    assert catalog.list_namespaces() == []
    assert not catalog.table_exists("private.t")
    with server.http(server.key(other)) as client:
        base = f"/iceberg/v1/{place.name}"
        for method, path in (
            ("GET", "/namespaces"),
            ("GET", "/namespaces/private/tables/t"),
            ("POST", "/namespaces/private/tables/t"),
            ("DELETE", "/namespaces/private/tables/t"),
        ):
            answer = client.request(method, base + path, json={} if method == "POST" else None)
            assert answer.status_code == 404, (method, path, answer.text)
            assert answer.json()["error"]["code"] == 404
        catalog.create_namespace("mine")
        for location in (table.location(), table.location() + "-x"):
            with pytest.raises(ForbiddenError):
                catalog.create_table("mine.t", SCHEMA, location=location)
        with pytest.raises(ForbiddenError):
            catalog.register_table("mine.stolen", table.metadata_location)
        mine = catalog.create_table("mine.honest", SCHEMA)
        data_file = table.inspect.files()["file_path"][0].as_py()
        with pytest.raises(Exception):  # noqa: B017 (pyarrow's own error for a bucket it may not read)
            mine.add_files([data_file])
        refused = client.post("/api/v1/sql", json={"sql": "select * from private.t"})
        assert refused.status_code == 404
        assert client.post("/api/v1/sql", json={"sql": "select 1", "project": place.name}).status_code == 404
    assert table.refresh().scan().to_arrow().num_rows == 1


def test_a_viewer_reads_and_no_more(place: Place, server: PlatformServer) -> None:
    place.catalog.create_namespace_if_not_exists("shown")
    place.catalog.create_table_if_not_exists("shown.t", SCHEMA).append(pa.table({"x": [1]}))
    token = server.key(place.name, role="viewer")
    key_id, _, secret = token.partition(".")
    given = properties(place.env) | {
        "token": token,
        "s3.access-key-id": key_id,
        "s3.secret-access-key": secret,
    }
    viewer = load_catalog("default", **given)
    assert viewer.load_table("shown.t").scan().to_arrow().num_rows == 1
    with pytest.raises(ForbiddenError):
        viewer.create_namespace("mine")
    with pytest.raises(ForbiddenError):
        viewer.drop_table("shown.t")
    with pytest.raises(ForbiddenError), viewer.load_table("shown.t").transaction() as transaction:
        transaction.set_properties({"a": "b"})


def test_strangers_are_turned_away(place: Place) -> None:
    for token in ("nonsense", "st1k" + "0" * 20 + ".wrong"):
        with pytest.raises(UnauthorizedError):
            load_catalog("default", **(properties(place.env) | {"token": token}))
    answer = httpx.get(f"{place.env['STRATAL_URL']}/iceberg/v1/config")
    assert (answer.status_code, answer.json()["error"]["type"]) == (401, "NotAuthorizedException")
