"""SQL through Stratal beside DuckDB itself, over the same rows.

    .venv/bin/python bench/sql.py [--rows 5000000] [--repeat 5]

Needs a running platform (`stratal up --detach`). Stratal's times include HTTP, planning, the permission
check, lineage and the result as JSON; DuckDB's are of its Python client in this process, over the same
Parquet file. Prints a table; the ratio is Stratal's time over DuckDB's, medians of the repeats.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import duckdb

from stratal.sdk import Client

TABLE = "bench_sql.rides"
ROWS = """
SELECT i AS id, timestamp '2026-01-01' + INTERVAL (i % 31536000) SECOND AS started, (i * 7919) % 263 AS zone,
       round(random() * 60, 2) AS fare, (random() * 4)::INT AS riders, 'driver ' || (i % 5000) AS driver
FROM range({rows}) t(i)
"""
QUERIES = {
    "one value": "SELECT 1",
    "count": "SELECT count(*) FROM {t}",
    "aggregate": "SELECT zone, count(*), avg(fare), max(started) FROM {t} GROUP BY zone ORDER BY zone",
    "filter": "SELECT * FROM {t} WHERE id BETWEEN 1000 AND 2000 ORDER BY id",
    "join": "SELECT a.zone, sum(b.fare) FROM {t} a JOIN {t} b ON a.id = b.id + 1 GROUP BY 1 ORDER BY 1",
    "distinct": "SELECT count(DISTINCT driver), approx_quantile(fare, 0.5) FROM {t}",
    "window": "SELECT driver, fare FROM {t} QUALIFY row_number() OVER (PARTITION BY driver ORDER BY fare DESC) = 1 "
    "ORDER BY ALL LIMIT 100",
    "10,000 rows": "SELECT * FROM {t} ORDER BY id LIMIT 10000",
}


def timed(work: Callable[[], object], repeat: int) -> float:
    """The median of `repeat` runs in milliseconds, after one that warms up."""
    work()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rows", type=int, default=5_000_000)
    options.add_argument("--repeat", type=int, default=5)
    given = options.parse_args()
    client = Client()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rides.parquet"
        direct = duckdb.connect()
        direct.execute(f"COPY ({ROWS.format(rows=given.rows)}) TO '{file}'")
        direct.execute(f"CREATE VIEW rides AS SELECT * FROM read_parquet('{file}')")
        start = time.perf_counter()
        with file.open("rb") as body:
            params = {"mode": "replace", "filename": file.name}
            client.request(
                "PUT", client.path(f"/tables/{TABLE}/import"), params=params, content=body, timeout=None
            )
        print(
            f"{given.rows:,} rows, {file.stat().st_size >> 20} MiB; import {time.perf_counter() - start:.1f} s\n"
        )
        print(f"{'query':<12} {'Stratal ms':>11} {'DuckDB ms':>10} {'ratio':>6}")
        for name, sql in QUERIES.items():
            ours = timed(
                lambda q=sql: client.post("/sql", {"sql": q.format(t=TABLE), "limit": 100_000}), given.repeat
            )
            theirs = timed(lambda q=sql: direct.execute(q.format(t="rides")).fetchall(), given.repeat)
            print(f"{name:<12} {ours:>11.1f} {theirs:>10.1f} {ours / theirs:>6.2f}")
        client.request("DELETE", client.path(f"/tables/{TABLE}"))


if __name__ == "__main__":
    main()
