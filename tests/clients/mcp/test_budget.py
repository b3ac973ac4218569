"""An agent whose project has spent its budget: it may look, and is told why it may begin nothing more."""

from pathlib import Path

import httpx2
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from sqlalchemy import insert

from stratal.kernel.clock import system_clock
from stratal.ledger.metering import month_of
from stratal.ledger.tables import spending
from stratal.ledger.units import NANO
from wired import Wired


def test_an_agent_stops_at_its_projects_budget(tmp_path: Path) -> None:
    wired = Wired(tmp_path / "home")
    wired.project("alpha")
    key = wired.key("alpha", "editor")
    (project,) = (
        one["id"]
        for one in wired.ask("GET", "/api/v1/projects", wired.admin).json()["projects"]
        if one["name"] == "alpha"
    )

    async def asked(tool: str, **arguments: object) -> tuple[bool, str]:
        http = httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=wired.platform.chain),
            base_url="http://127.0.0.1:8484",
            headers={"Authorization": f"Bearer {key}"},
        )
        async with (
            http,
            Client(streamable_http_client("http://127.0.0.1:8484/mcp", http_client=http)) as client,
        ):
            answer = await client.call_tool(tool, arguments)
            return answer.is_error, answer.content[0].text

    run = wired._runner.run
    refused, said = run(asked("submit_job", command=["true"]))
    assert not refused, said
    row = {"project_id": project, "month": month_of(system_clock()), "amount": NANO}
    wired.platform.database.write_now(lambda c: c.execute(insert(spending).values(row)))
    budget = wired.ask("PUT", "/api/v1/projects/alpha/budget", wired.admin, json={"amount": "0.01"})
    assert budget.json()["state"] == "used up"
    for tool, arguments in (
        ("submit_job", {"command": ["true"]}),
        ("deploy", {"endpoint": "e", "model": "models:/m/1"}),
        ("predict", {"endpoint": "e", "rows": [{"a": 1}]}),
    ):
        refused, said = run(asked(tool, **arguments))
        assert refused
        assert "budget" in said
    assert run(asked("list_jobs"))[0] is False
    assert run(asked("search", words="true"))[0] is False
    wired.close()
