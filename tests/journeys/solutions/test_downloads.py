"""Data that --download fetches, from a server of our own with small files of the same formats."""

import http.server
import io
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from stratal.ai.solutions.catalogue import Catalogue

sys.path.insert(0, str(Catalogue().root))
from kit import checks, fetching
from kit.study import Study

RATINGS = b"1\t10\t5\t100\n1\t11\t2\t101\n2\t10\t4\t99\n2\t30\t5\t300\n"


def archive() -> bytes:
    kept = io.BytesIO()
    with zipfile.ZipFile(kept, "w") as made:
        for name, text in (("u.data", RATINGS), ("u.user", "1|24|M|technician|85711\n")):
            made.writestr(zipfile.ZipInfo(f"ml-100k/{name}"), text)  # dated as none, so the same each time
    return kept.getvalue()


class _Files(http.server.BaseHTTPRequestHandler):
    files: ClassVar = {"/ml-100k.zip": archive()}

    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "ftp://127.0.0.1/elsewhere")
            self.end_headers()
            return
        found = self.files.get(self.path)
        self.send_response(200 if found else 404)
        self.end_headers()
        self.wfile.write(found or b"")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Files)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


class Kept(Study):
    """Keeps what goes into the bucket here."""

    def _put(self, key: str, data: bytes) -> None:
        self.__dict__.setdefault("kept", {})[key] = data


def study(folder: Path, url: str, sha256: str) -> Any:
    (folder / "solution.toml").write_text(
        f'name = "films"\n[run]\n[[sources]]\nname = "movielens"\nurl = "{url}"\nsha256 = "{sha256}"\n'
    )
    return Kept(folder, run="r", bucket="b", size="default", download=True)


def module(solution: str) -> Any:
    """The solution's `downloads`, which stands on nothing of its environment."""
    import importlib.util

    path = Catalogue().root / solution / "downloads.py"
    spec = importlib.util.spec_from_file_location(f"downloads_of_{solution.replace('-', '_')}", path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_what_is_fetched_is_kept_and_held_against_its_checksum(address: str, tmp_path: Path) -> None:
    one = study(tmp_path, f"{address}/ml-100k.zip", checks.sha256(archive()))
    data = one.downloaded("movielens", suffix=".zip")
    assert one.kept == {"raw/movielens.zip": data}
    assert one.found["sources"][0]["passed"] is True
    for other in ("", checks.sha256(b"another edition")):
        one = study(tmp_path, f"{address}/ml-100k.zip", other)
        one.downloaded("movielens", suffix=".zip")
        (source,) = one.found["sources"]
        assert source["passed"] is False
        assert source["sha256"] == checks.sha256(archive()), "what came is said, so that it can be looked at"


def test_what_cannot_be_fetched_says_why(address: str, tmp_path: Path) -> None:
    for url, said in (
        (f"{address}/absent.csv", "answered 404"),
        (f"{address}/moved", "another protocol"),
        ("http://127.0.0.1:9/nobody", "needs an open network"),
        ("file:///etc/passwd", "no address of the web"),
    ):
        with pytest.raises(fetching.NotFetched, match=said):
            study(tmp_path, url, "").downloaded("movielens")
    with pytest.raises(fetching.NotFetched, match="more than 10 bytes"):
        fetching.fetched(f"{address}/ml-100k.zip", most=10)


def test_ratings_become_picks_in_the_order_of_time_and_nothing_else_of_the_archive_is_read() -> None:
    picks = module("recommendation").picks(archive())
    assert picks.to_dict("list") == {"person": [1, 0, 1], "item": [0, 0, 1], "time": [99, 100, 300]}
    with pytest.raises(fetching.NotFetched, match=r"holds no ml-100k/u\.data"):
        module("recommendation").picks(b"PK no archive")


def test_measured_molecules_are_read_by_their_columns_names() -> None:
    esol = module("drug-discovery").esol
    head = "Compound ID,ESOL predicted log solubility in mols per litre,measured log solubility in mols per litre,smiles\n"
    found = esol(f"{head}Amigdalin,-0.974,-0.77,OCC3OC\nnone,1,,CC\n".encode())
    assert found.to_dict("records") == [{"name": "Amigdalin", "smiles": "OCC3OC", "logs": -0.77}]
    with pytest.raises(ValueError, match="no column 'Compound ID'"):
        esol(b"name,smiles\na,b\n")


def test_the_competitions_series_its_baseline_and_its_measure() -> None:
    m4 = module("demand-forecasting")
    hours = np.arange(24 * 7 * 8)
    day = np.sin(2 * np.pi * hours / 24) + 3
    csv = "V1,V2,V3\nH1,1,2\nH2,3,\n"
    assert {name: list(values) for name, values in m4.hourly(csv.encode()).items()} == {
        "H1": [1, 2],
        "H2": [3],
    }
    with pytest.raises(ValueError, match="not the M4"):
        m4.hourly(b"a,b\n1,2\n")
    past, future = {"H1": day[:-48] + hours[:-48] / 24}, {"H1": day[-48:] + hours[-48:] / 24}
    assert m4.mase(past, future, {"H1": m4.naive(past["H1"])}) == pytest.approx(1.5), (
        "a day and two days of growth"
    )

    class Level:
        def predict(self, features: Any) -> Any:
            return features[:, m4.LAGS.index(168)]

    x, y = m4.rows(past)
    assert x.shape == (3 * 168, len(m4.LAGS) + 2)
    assert len(y) == len(x)
    said = m4.forecast(Level(), past)["H1"]
    assert np.allclose(said, past["H1"][-168:-120]), "the same hour of the week before"


def test_features_of_an_hour_hold_nothing_of_the_two_days_before_it() -> None:
    m4 = module("demand-forecasting")
    rng = np.random.default_rng(1)
    values = rng.uniform(1, 2, 1000)
    other = values.copy()
    other[900 - m4.AHEAD + 1 : 900] = 99
    assert m4.described(values, 900, 900) == m4.described(other, 900, 900)
