"""The official MCP client at the agents' door: what it lists, asks and is refused, and where that is on record."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import httpx2
import pytest
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client

from platform_server import PlatformServer, wait_until

T = TypeVar("T")


def as_agent(
    server: PlatformServer, key: str, work: Callable[[Client], Awaitable[T]], *, mode: str = "auto"
) -> T:
    """Do `work` with a client that was given the address and a key, and nothing else."""

    async def run() -> T:
        http = httpx2.AsyncClient(headers={"Authorization": f"Bearer {key}"}, timeout=120)
        async with (
            http,
            Client(streamable_http_client(f"{server.url}/mcp", http_client=http), mode=mode) as client,
        ):
            return await work(client)

    return asyncio.run(run())


async def ask(client: Client, tool: str, **arguments: Any) -> Any:
    answer = await client.call_tool(tool, arguments)
    assert not answer.is_error, answer.content
    return answer.structured_content if answer.structured_content is not None else answer.content[0].text


async def refused(client: Client, tool: str, **arguments: Any) -> tuple[str, str]:
    """The refusal's code, and what the agent reads."""
    answer = await client.call_tool(tool, arguments)
    assert answer.is_error, answer.content
    return answer.structured_content["error"]["code"], answer.content[0].text


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_an_agent_works_with_its_keys_role_and_is_told_what_to_do_next(
    server: PlatformServer, mode: str
) -> None:
    project = server.project()
    editor, viewer = server.key(project, "editor"), server.key(project, "viewer")
    server.cli("sql", "CREATE TABLE sales.orders AS SELECT 7 AS n UNION ALL SELECT 8", "--project", project)

    async def look(client: Client) -> None:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert {
            "search",
            "sql",
            "list_runs",
            "list_jobs",
            "job_log",
            "predict",
            "deploy",
            "why",
        } <= tools.keys()
        assert tools["deploy"].annotations.read_only_hint is False
        assert tools["sql"].annotations.read_only_hint is True
        assert tools["sql"].input_schema["required"] == ["statement"]
        found = await ask(client, "search", words="ORDERS")
        assert [(one["kind"], one["id"]) for one in found["found"]] == [("table", "sales.orders")]
        answer = await ask(
            client, "sql", statement="SELECT sum(n) AS total FROM sales.orders WHERE n > ?", params=[7]
        )
        assert answer["rows"] == [[8]]
        code, said = await refused(client, "sql", statement="SELECT * FROM sales.none")
        assert code == "no_such_table"
        assert "sales.none" in said
        code, _ = await refused(client, "sql", statement="INSERT INTO sales.orders VALUES (9)")
        assert code == "reads_only"
        for tool, arguments in (
            ("deploy", {"endpoint": "e", "model": "models:/m/1"}),
            ("submit_job", {"command": ["true"]}),
        ):
            code, said = await refused(client, tool, **arguments)
            assert code == "denied"
            assert "editor" in said
        assert (await ask(client, "list_endpoints"))["endpoints"] == []
        assert (await ask(client, "list_jobs"))["jobs"] == []
        assert (await refused(client, "why", prediction="pr_none"))[0] == "no_such_prediction"
        assert (await refused(client, "predict", endpoint="none", rows=[{"a": 1}]))[0] == "no_such_endpoint"
        code, said = await refused(client, "search", word="x")
        assert (code, "words" in said) == ("bad_arguments", True)
        assert (await refused(client, "drop_everything"))[0] == "no_such_tool"

    as_agent(server, viewer, look, mode=mode)

    async def work(client: Client) -> Any:
        made = await ask(client, "submit_job", command=["sh", "-c", "echo said by a job"])
        while not (told := await ask(client, "get_job", job=made["id"], wait_seconds=30))["ended_at"]:
            assert told["state"] in {"queued", "starting", "running"}
        assert told["state"] == "succeeded"
        assert "said by a job" in await ask(client, "job_log", job=made["id"])
        return told

    told = as_agent(server, editor, work, mode=mode)
    assert told["project"] == project

    def on_record() -> bool:
        listed = server.json("audit", "--project", project)["entries"]
        submitted = [one for one in listed if one["kind"] == "job.queued" and one["door"] == "mcp"]
        denied = [one for one in listed if one["door"] == "mcp" and "endpoints.deploy" in json.dumps(one)]
        return bool(submitted and denied)

    wait_until(on_record)


def test_the_door_is_shut_to_strangers_to_other_origins_and_to_names_that_are_not_ours(
    server: PlatformServer,
) -> None:
    ask = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    accept = {"Accept": "application/json, text/event-stream"}
    with server.http() as http:
        assert http.post("/mcp", json=ask, headers=accept).status_code == 200
        own = {**accept, "Origin": server.url}
        assert http.post("/mcp", json=ask, headers=own).status_code == 200
        for origin in ("https://evil.example", "null", f"http://evil.localhost:{server.port}"):
            answer = http.post("/mcp", json=ask, headers={**accept, "Origin": origin})
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "cross_site"), origin
        rebound = http.post("/mcp", json=ask, headers={**accept, "Host": "evil.example"})
        assert (rebound.status_code, rebound.json()["error"]["code"]) == (400, "bad_host")
        for method in ("GET", "DELETE"):
            answer = http.request(method, "/mcp", headers=accept)
            assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
        assert http.post(
            "/mcp", content=b"{", headers={**accept, "Content-Type": "application/json"}
        ).is_error
    with httpx2.Client(base_url=server.url) as nobody:
        answer = nobody.post("/mcp", json=ask, headers=accept)
        assert answer.status_code == 401
        assert "www-authenticate" in answer.headers
        wrong = {**accept, "Authorization": "Bearer st1k00000000000000000000.wrong"}
        assert nobody.post("/mcp", json=ask, headers=wrong).status_code == 401
