"""Take the pictures of the console that the README shows, on a platform of their own with real work in it.

Usage: .venv/bin/python scripts/record_pages.py      (needs a Chromium; a few minutes; writes docs/images/*.webp)
"""

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs" / "images"
TRAIN = """
import argparse
import mlflow
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import cross_val_score

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float)
parser.add_argument("--depth", type=int)
options = parser.parse_args()
x, y = load_breast_cancer(return_X_y=True)
with mlflow.start_run():
    model = HistGradientBoostingClassifier(learning_rate=options.lr, max_depth=options.depth, max_iter=30)
    for step, value in enumerate(cross_val_score(model, x, y, cv=3, scoring="roc_auc")):
        mlflow.log_metric("val_auc", value, step=step)
"""


class Platform:
    """One that runs on a home of its own, used by its command line alone."""

    def __init__(self, home: Path) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("STRATAL_")}
        self._environ = {**kept, "STRATAL_HOME": str(home)}

    def cli(self, *words: str, cwd: Path = ROOT) -> str:
        argv = [sys.executable, "-m", "stratal.cli.main", *words]
        print("stratal", *words, flush=True)
        done = subprocess.run(argv, env=self._environ, cwd=cwd, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(done.stdout + done.stderr)
        return done.stdout

    def json(self, *words: str) -> Any:
        return json.loads(self.cli(*words, "--json"))


def work(platform: Platform, folder: Path) -> dict[str, str]:
    """Have something done of each kind; returns the pages to show by their pictures' names."""
    prediction = platform.json("demo")["prediction_id"]
    (folder / "train.py").write_text(TRAIN)
    (folder / "requirements.txt").write_text("mlflow\nscikit-learn\n")
    asked = ("--param", "lr=log:1e-3..1", "--param", "depth=int:2..8", "--metric", "val_auc")
    packages = ("--requirements", "requirements.txt")
    platform.cli("sweep", "train.py", *asked, "--trials", "24", "--parallel", "2", *packages, cwd=folder)
    platform.cli("buckets", "create", "landing")
    for decade in ("1950s", "1960s", "1970s", "1980s", "1990s"):
        platform.cli("objects", "put", f"examples/co2/data/co2-{decade}.csv", "s3://landing/co2/")
        if decade in {"1980s", "1990s"}:
            platform.cli("pipeline", "run", "examples/co2/pipeline.py")
    platform.cli("solutions", "run", "disease-diagnosis")
    return {
        "why": f"/predictions/{prediction}",
        "pipeline": "/projects/default/pipelines/2",
        "sweep": "/projects/default/sweeps/1",
        "solutions": "/projects/default/solutions/disease-diagnosis",
    }


def keep(page: Page, name: str) -> None:
    picture = Image.open(io.BytesIO(page.screenshot()))
    picture.convert("RGB").save(IMAGES / f"{name}.webp", quality=80, method=6)


def main() -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("No Chromium is installed.")
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        platform = Platform(Path(scratch) / "home")
        platform.cli("up", "--detach", "--port", str(port))
        try:
            (Path(scratch) / "work").mkdir()
            pages = work(platform, Path(scratch) / "work")
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
                page = browser.new_page(viewport={"width": 1280, "height": 800}, device_scale_factor=1.5)
                page.goto(platform.json("login-link")["url"])
                for name, path in pages.items():
                    page.goto(f"http://127.0.0.1:{port}{path}", wait_until="load")
                    page.wait_for_timeout(2000)  # charts draw themselves
                    keep(page, name)
                browser.close()
        finally:
            platform.cli("down")


if __name__ == "__main__":
    main()
