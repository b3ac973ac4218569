"""Write what solutions' newest default runs measured into the table of docs/solutions.md.

Usage: .venv/bin/python scripts/record_solutions.py [NAME …]     (after: stratal solutions run NAME)

A row that was written before stays until its solution is recorded again; one that was never measured says so.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from stratal.ai.solutions.catalogue import Catalogue
from stratal.ai.solutions.manifest import Solution
from stratal.cli.solutions.report import between

PAGE = Path(__file__).parent.parent / "docs" / "solutions.md"
BEGIN, END = "<!-- measured: written by scripts/record_solutions.py -->", "<!-- /measured -->"
HEAD = (
    "| solution | measured | on | candidate | simple baseline | oracle | verdict | seeds | CPU-min | p95 ms |\n"
    "|---|---|---|---|---|---|---|---|---|---|\n"
)


def row(name: str, result: dict[str, Any]) -> str:
    metric = Catalogue().get(name).headline
    told = result["numbers"][metric.name]
    cells = [
        f"`{name}`",
        metric.title,
        metric.badge,
        *(between(told.get(part)) for part in ("candidate", "baseline", "oracle")),
        verdict(result),
        str(result["usage"]["seeds"]),
        f"{result['usage']['cpu_minutes']:.1f}",
        f"{result['latency']['p95_ms']:.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def verdict(result: dict[str, Any]) -> str:
    """With the gates that failed, where any did: a row refused for latency is another than one for its leak."""
    failed = [gate["gate"] for gate in result["gates"] if gate["status"] == "failed"]
    return str(result["verdict"]) + (f" ({', '.join(failed)})" if failed else "")


def nothing(one: Solution) -> str:
    cells = [f"`{one.name}`", one.headline.title, one.headline.badge, *"———", "not measured yet", *"———"]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    table, after = rest.split(END)
    rows = {m[1]: m[0] for m in re.finditer(r"^\| `([a-z-]+)` .*$", table, re.MULTILINE)}
    for name in sys.argv[1:]:
        argv = [sys.executable, "-m", "stratal.cli.main", "solutions", "report", name, "--json"]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        result = json.loads(done.stdout)
        if result["size"] != "default" or result["planted"]:
            raise SystemExit(f"{name}: the newest run is no plain default run")
        rows[name] = row(name, result)
    for one in Catalogue().all():
        rows.setdefault(one.name, nothing(one))
    body = "\n".join(rows[name] for name in sorted(rows))
    PAGE.write_text(f"{before}{BEGIN}\n{HEAD}{body}\n{END}{after}")


main()
