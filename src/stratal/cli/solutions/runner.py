"""One run of a solution: ingest → validate → transform → train → evaluate → register → deploy → ask → report.

Each step is what a user could do: jobs, SQL, MLflow's protocol, deployments, Open Inference, objects. Steps
that compute are jobs with the solution's own code and environment; what they measure comes back as JSON from
the solution's bucket. Everything lives in the solution's own project, so that removing that removes it all.
"""

import contextlib
import hashlib
import json
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from stratal import __version__
from stratal.ai.solutions.catalogue import KIT, Catalogue, project_of
from stratal.ai.solutions.manifest import Solution
from stratal.cli import starting
from stratal.cli.catalog import asking
from stratal.cli.shown import Size
from stratal.cli.solutions import report, serving
from stratal.cli.solutions.gates import Verdict, failed, judge
from stratal.cli.solutions.turns import Turn
from stratal.kernel.errors import Internal
from stratal.sdk import ApiError, Client, contexts, jobs

Json = dict[str, Any]
Say = Callable[[str], None]
PROMOTED, REFUSED, EXPECTED, MECHANICS = "promoted", "refused", "refused, as declared", "mechanics only"
FAULTS = ("leak", "labels", "baseline", "checksum")
EXIT_REFUSED = 3
_REQUESTS = 100
_POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Wanted:
    """How to run: `size` is ``tiny``, ``default`` or ``full``; `plant` one of `FAULTS` or empty."""

    size: str = "default"
    download: bool = False
    plant: str = ""

    @property
    def tiny(self) -> bool:
        return self.size == "tiny"


def exit_code(verdict: str) -> int:
    return EXIT_REFUSED if verdict == REFUSED else 0


class Runner:
    """Runs `solution` on the platform of `home`. `say` is told what is going on."""

    def __init__(
        self, catalogue: Catalogue, solution: Solution, wanted: Wanted, home: Path, say: Say
    ) -> None:
        self._catalogue = catalogue
        self._solution = solution
        self._wanted = wanted
        self._home = home
        self._say = say
        self._began = datetime.now(UTC)
        self.run_id = self._began.strftime("%Y%m%dT%H%M%S") + f"-{os.urandom(3).hex()}"
        self.project = project_of(solution.name, tiny=wanted.tiny)
        self._jobs: list[Json] = []

    def run(self) -> Json:
        """The run's result, which is also kept in the bucket beside its report. Raises `ApiError`, `Internal`."""
        client = self._prepare()
        turn = Turn(client, self._solution.name, self.project, self.run_id)
        turn.take(tuple(self._solution.steps))
        self._pull(client)
        found: Json = {}
        with tempfile.TemporaryDirectory(prefix="stratal-solution-") as scratch:
            code = self._copy(Path(scratch))
            for step in self._solution.steps:
                turn.hold()
                _merge(found, self._step(client, step, code))
                if step == "ingest":
                    found["checks"] = self._validate(client)
                    self._index(client)
        found["usage"] = self._usage()
        turn.hold()
        with serving.key_of(client, f"solution-{self.run_id}") as key:
            verdicts, verdict, served = self._promote(client, found, key)
        result = self._result(client, found, verdicts, verdict, served)
        self._say("writing the report")
        self._keep(client, result, found)
        return result

    # -- steps -------------------------------------------------------------------------------

    def _prepare(self) -> Client:
        remote = contexts.chosen(os.environ) is not None
        if not remote and not starting.is_running(self._home):
            self._say("starting the platform")
            starting.start(self._home)
        admin = Client() if remote else Client(home=self._home)
        if all(project["name"] != self.project for project in admin.get("/projects")["projects"]):
            _make(admin, self.project)
        client = Client(admin.url, admin.key, project=self.project)
        if all(bucket["name"] != self.project for bucket in client.get(client.path("/buckets"))["buckets"]):
            client.post(client.path("/buckets"), {"name": self.project})
        return client

    def _pull(self, client: Client) -> None:
        """With --download, the declared models of a hub, each at its commit, as `stratal models pull` gets them."""
        for wanted in self._solution.pulls if self._wanted.download else ():
            self._say(f"pull: {wanted.source} ({wanted.licence})")
            body = {"source": wanted.source, "name": wanted.name, "allow_pickle": wanted.pickles}
            made = client.request(
                "POST", client.path("/catalog/pulls"), json=body, timeout=asking.PULL_SECONDS
            )
            self._say(f"pull: {made['uri']} at commit {made['commit']}, {made['files']} files")

    def _copy(self, folder: Path) -> Path:
        """The solution's code and the kit in a repository of their own: jobs have a commit, the same for the same code."""
        code = folder / self._solution.name
        ignored = shutil.ignore_patterns("__pycache__", "*.in", ".git", ".venv")
        shutil.copytree(self._solution.folder, code, ignore=ignored)
        shutil.copytree(self._catalogue.root / KIT, code / KIT, ignore=ignored)
        if self._solution.documentation:
            _document(self._catalogue.documentation, code / "documentation")
        if shutil.which("git"):
            moment = "2026-01-01T00:00:00Z"
            environ = {
                **{k: v for k, v in os.environ.items() if not k.startswith("GIT_")},
                "GIT_AUTHOR_DATE": moment,
                "GIT_COMMITTER_DATE": moment,
                "GIT_CONFIG_GLOBAL": os.devnull,
                "GIT_CONFIG_NOSYSTEM": "1",
            }
            author = ["-c", "user.name=Stratal solutions", "-c", "user.email=solutions@localhost"]
            commit = [*author, "commit", "-q", "-m", f"{self._solution.title}, as in Stratal {__version__}"]
            for arguments in (["init", "-q", "-b", "main"], ["add", "."], commit):
                subprocess.run(["git", *arguments], cwd=code, check=True, capture_output=True, env=environ)
        return code

    def _step(self, client: Client, step: str, code: Path) -> Json:
        self._say(f"{step}: queued")
        argv = ["python", "-m", KIT, step, "--run", self.run_id, "--bucket", self.project]
        argv += ["--size", self._wanted.size]
        argv += ["--plant", self._wanted.plant] if self._wanted.plant else []
        argv += ["--download"] if self._wanted.download else []
        threads = str(max(1, int(self._solution.cpus)))
        job = jobs.run(
            client,
            argv,
            folder=code,
            name=f"{self._solution.name}-{step}",
            cpus=self._solution.cpus,
            memory_bytes=Size().convert(self._solution.memory, None, None),
            requirements=self._solution.requirements,
            network="open" if self._wanted.download and step == "ingest" else None,
            env=dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads),
        )
        rest = b""

        def tell(chunk: bytes) -> None:
            nonlocal rest
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if line.strip():
                    self._say(f"{step}: {line.decode(errors='replace').strip()[:150]}")

        try:
            job = jobs.follow(client, job["id"], tell)
        except BaseException:  # Ctrl-C: what it makes nobody would take up
            with contextlib.suppress(ApiError):
                jobs.stop(client, job["id"])
            raise
        self._jobs.append(job)
        if job["state"] != "succeeded":
            log = jobs.logs(client, job["id"]).decode(errors="replace")
            why = job["reason"] or f"exit code {job['exit_code']}"
            raise Internal(
                f"The step {step} (job {job['id']}) {job['state']}: {why}.", hint=log[-1500:].strip()
            )
        return self._object(client, f"runs/{self.run_id}/{step}.json")

    def _validate(self, client: Client) -> list[Json]:
        """The declared checks, in SQL over the tables just written."""
        outcomes = []
        for check in self._solution.checks:
            try:
                rows = client.post("/sql", {"sql": check.sql, "project": self.project})["rows"]
                value = rows[0][0] if rows else None
                passed = value == check.expect
                said = f"{value}" + ("" if passed else f", expected {check.expect}")
            except ApiError as error:
                passed, said = False, f"the statement failed: {error.message}"
            outcomes.append({"name": check.title, "passed": passed, "said": said, "sql": check.sql})
            self._say(f"validate: {check.title}: {said}")
        return outcomes

    def _index(self, client: Client) -> None:
        """The declared indexes, made as `stratal index create` makes them."""
        for wanted in self._solution.indexes:
            embedder = client.get("/catalog/embed")
            self._say(f"index: {wanted.name}, embedded by {embedder['name']}")
            asking.ensure(client, embedder, quiet=True)
            path = client.path(f"/indexes/{quote(wanted.name, safe='')}")
            body = {
                "source": f"s3://{self.project}/{wanted.objects}",
                "embedder": embedder["name"],
                "ocr": None,
            }
            made = client.request("PUT", path, json=body)
            while made["state"] == "building":
                time.sleep(_POLL_SECONDS)
                made = client.get(path)
            if made["state"] != "ready":
                raise Internal(
                    f"Index {wanted.name} was not built: {made['failure']}",
                    hint=f"Its job's log: stratal job logs {made['job']} --project {self.project}",
                )
            self._say(f"index: {made['passages']} passages of {made['documents']} documents")

    def _promote(self, client: Client, found: Json, key: str) -> tuple[list[Verdict], str, Json]:
        """Put the candidate to the test where nobody else asks it, then serve it or the baseline."""
        trial = self._solution.name if self._wanted.tiny else f"{self._solution.name}-trial"
        try:
            return self._tried(client, found, key, trial)
        except (KeyboardInterrupt, SystemExit):
            if trial != self._solution.name:
                with contextlib.suppress(ApiError):
                    client.delete(client.path(f"/endpoints/{quote(trial, safe='')}"))
            raise

    def _tried(self, client: Client, found: Json, key: str, trial: str) -> tuple[list[Verdict], str, Json]:
        name = self._solution.name
        models = found["models"]
        doors = serving.Serving(client, key, self._solution, self._say)
        doors.deploy(trial, models["candidate"]["version"])
        asked = doors.ask(trial)
        found["answer"] = serving.same(asked.answers, models["candidate"]["answers"], asked.disclaimed)
        if not self._wanted.tiny:
            found["latency"] = doors.latency(trial, _REQUESTS)
            if not self._wanted.plant:
                found["answer"] = serving.as_expected(found["answer"], asked.answers, self._solution.expect)
        found["why"] = doors.why(asked.prediction_id)
        verdicts = judge(self._solution, found, tiny=self._wanted.tiny, downloaded=self._wanted.download)
        verdict = self._verdict(verdicts)
        role = "candidate" if verdict in {PROMOTED, MECHANICS} else "baseline"
        version = str(models[role]["version"])
        if trial != name or role != "candidate":
            doors.deploy(name, version)
            asked = doors.ask(name)
        if trial != name:
            client.delete(client.path(f"/endpoints/{quote(trial, safe='')}"))
        if not self._wanted.tiny:
            doors.alias(version)
        told = {
            "endpoint": name,
            "role": role,
            "version": version,
            "url": asked.url,
            "prediction_id": asked.prediction_id,
            "request": [dict(row) for row in self._solution.request],
            "answers": asked.answers,
            "why": doors.why(asked.prediction_id)["said"],
        }
        return verdicts, verdict, told

    def _verdict(self, verdicts: list[Verdict]) -> str:
        bad = failed(verdicts)
        if not bad:
            offline = self._solution.mechanics_only and not self._wanted.download
            return MECHANICS if self._wanted.tiny or offline else PROMOTED
        declared = self._solution.refusal
        if declared and {v.title for v in bad} <= set(declared["gates"]):
            return EXPECTED
        return REFUSED

    # -- what is kept ------------------------------------------------------------------------

    def _result(
        self, client: Client, found: Json, verdicts: list[Verdict], verdict: str, served: Json
    ) -> Json:
        train = self._jobs[-1]
        source = train.get("source") or {}
        costs = client.get(client.path("/cost"), by="job", since=self._began.isoformat(timespec="seconds"))
        return {
            "solution": self._solution.name,
            "title": self._solution.title,
            "run": self.run_id,
            "project": self.project,
            "size": self._wanted.size,
            "planted": self._wanted.plant,
            "verdict": verdict,
            "mechanics_only": self._solution.mechanics_only if verdict == MECHANICS else "",
            "expected_refusal": self._solution.refusal.get("why", "") if verdict == EXPECTED else "",
            "gates": [v.told() for v in verdicts],
            "numbers": found.get("numbers", {}),
            "subgroups": found.get("subgroups", []),
            "tables": found.get("tables", []),
            "sources": found.get("sources", []),
            "checks": found.get("checks", []),
            "faults": found.get("faults", []),
            "snapshots": found.get("snapshots", {}),
            "latency": found.get("latency"),
            "usage": found["usage"],
            "cost": {"total": costs["total"], "currency": costs["currency"]},
            "jobs": [
                {"id": j["id"], "name": j["name"], "cpu_seconds": j["usage"]["cpu_seconds"]}
                for j in self._jobs
            ],
            "environment": train.get("environment"),
            "commit": source.get("commit"),
            "code": train.get("snapshot"),
            "run_id": found.get("run_id"),
            "models": found["models"],
            "served": served,
            "machine": f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}",
            "stratal": __version__,
            "began": self._began.isoformat(timespec="seconds"),
            "seconds": round((datetime.now(UTC) - self._began).total_seconds(), 1),
        }

    def _keep(self, client: Client, result: Json, found: Json) -> None:
        picture = next((p for p in found["plots"] if p["picture"]), found["plots"][0])
        page = report.render(self._solution, result, found["plots"]).encode()
        body = json.dumps(result).encode()
        base = f"runs/{self.run_id}"
        for key, data, kind in (
            (f"{base}/report.html", page, "text/html"),
            (f"{base}/result.json", body, "application/json"),
            ("latest/report.html", page, "text/html"),
            ("latest/picture.svg", str(picture["svg"]).encode(), "image/svg+xml"),
            ("latest/result.json", body, "application/json"),
        ):
            client.request(
                "PUT",
                self._object_path(client),
                params={"key": key},
                content=data,
                headers={"content-type": kind},
            )

    def _usage(self) -> Json:
        seconds = sum(job["usage"]["cpu_seconds"] for job in self._jobs)
        seeds = 2 if self._wanted.tiny else self._solution.seeds
        return {"cpu_minutes": seconds / 60, "seeds": seeds}

    def _object(self, client: Client, key: str) -> Json:
        with client.stream("GET", self._object_path(client), params={"key": key}) as answer:
            read: Json = json.loads(answer.read())
        return read

    def _object_path(self, client: Client) -> str:
        return client.path(f"/buckets/{self.project}/object")


def _make(admin: Client, project: str) -> None:
    try:
        admin.post("/projects", {"name": project})
    except ApiError as error:
        if error.status != 403:
            raise
        raise ApiError(
            403,
            error.code,
            f"A solution runs in a project of its own; {project} is not there or not yours, and making it takes an admin.",
            f"Have an admin make it (stratal projects create {project}) and take you in as an editor.",
            error.request_id,
        ) from None


def _document(pages: Path, target: Path) -> None:
    """Put the platform's own pages into `target`, and beside them ``EDITION``: the checksum of all of them."""
    target.mkdir()
    edition = hashlib.sha256()
    for page in sorted(pages.glob("*.md")):
        data = page.read_bytes()
        edition.update(page.name.encode() + b"\0" + data + b"\0")
        (target / page.name).write_bytes(data)
    (target / "EDITION").write_text(edition.hexdigest())


def _merge(found: Json, more: Mapping[str, Any]) -> None:
    """Add a step's evidence: lists grow, mappings are united, anything else is the later step's."""
    for name, value in more.items():
        old = found.get(name)
        if isinstance(old, list) and isinstance(value, list):
            old.extend(value)
        elif isinstance(old, dict) and isinstance(value, dict):
            old.update(value)
        else:
            found[name] = value
