"""``why``: builds the chain of a prediction from what doors recorded, hashing every stored byte again.

prediction → endpoint revision → model version → run → job → code, environment, and each table snapshot
and object version the job read → the steps and jobs that wrote these, with their code and what they read, and so on up
to what people and the world outside brought in. Where a form answered for the version, it and the job that converted it
come first.
"""

import hashlib
from collections import deque
from collections.abc import Mapping, Sequence

from stratal.ai.endpoints.model import Revision
from stratal.ai.endpoints.service import Endpoints
from stratal.ai.explain.borrowed import Borrowed
from stratal.ai.explain.inputs import Inputs
from stratal.ai.explain.model import Explanation, Hash, Link, Status
from stratal.ai.models.forms import Forms
from stratal.ai.models.model import FileCheck, Form, ModelVersion, State
from stratal.ai.models.registry import Models
from stratal.ai.predictions.service import Prediction, Predictions
from stratal.collab.experiments import Experiments
from stratal.collab.runs import Runs
from stratal.compute.environments import Environments
from stratal.compute.jobs import Jobs
from stratal.compute.model import Job
from stratal.compute.snapshots import Snapshots
from stratal.identity.model import Principal, system_principal
from stratal.identity.permissions import may, require
from stratal.kernel.clock import iso
from stratal.kernel.errors import NotFound

_METRICS_SHOWN = 8
_SOURCE_TAG = "stratal.converted_from"
"""On a version that was converted from another one, before versions had forms."""
_MOST_UPSTREAM = 60
"""So many steps and jobs above the one that trained are shown; more are said to be there."""
_MODEL = {State.VERIFIED: Status.VERIFIED, State.BROKEN: Status.BROKEN, State.MISSING: Status.BROKEN}


class Why:
    """Explains predictions. Reading it changes nothing."""

    def __init__(
        self,
        predictions: Predictions,
        endpoints: Endpoints,
        models: Models,
        forms: Forms,
        experiments: Experiments,
        runs: Runs,
        jobs: Jobs,
        snapshots: Snapshots,
        environments: Environments,
        inputs: Inputs,
        borrowed: Borrowed,
    ) -> None:
        self._predictions = predictions
        self._endpoints = endpoints
        self._models = models
        self._forms = forms
        self._experiments = experiments
        self._runs = runs
        self._jobs = jobs
        self._snapshots = snapshots
        self._environments = environments
        self._inputs = inputs
        self._borrowed = borrowed

    async def explain(self, who: Principal, prediction_id: str) -> Explanation:
        """The chain of one prediction. Raises `NotFound` for an id that is not one, or of another project.

        Whoever asked an endpoint that is lent to them is told what they may see of it (see `borrowed`).
        """
        prediction = await self._predictions.get(who, prediction_id)
        revision = await self._endpoints.revision(prediction.revision)
        if may(who, "predictions.read", prediction.project_id):
            return await self._explained(who, prediction, revision)
        asked_in = prediction.asked_in or ""
        require(who, "predictions.read", asked_in, what=f"prediction {prediction_id[:60]!r}")
        if not await self._borrowed.lasts(asked_in, revision.endpoint_id):
            return self._borrowed.over(_prediction(prediction), who.project)
        giver = system_principal(prediction.project_id, "")
        told = await self._explained(giver, prediction, revision, upstream=False)
        return await self._borrowed.seen(told, asked_in, prediction.project_id)

    async def _explained(
        self, who: Principal, prediction: Prediction, revision: Revision, *, upstream: bool = True
    ) -> Explanation:
        prediction_id = prediction.id
        chain = [_prediction(prediction), _revision(prediction, revision)]
        version: ModelVersion | None
        try:
            version = await self._models.by_id(prediction.model_version_id)
        except NotFound:
            gone = (("gone", "the version was deleted from the registry"),)
            chain.append(
                Link("model version", prediction.model_version_id, "deleted", gone, claim=Status.UNPROVEN)
            )
            return Explanation(prediction_id, who.project, chain, ("what the deleted model was made of",))
        project = who.project
        others: dict[str, None] = {}
        served: Revision | None = revision
        if revision.form_id is not None:
            links, inputs = await self._converted(who, version, revision)
            chain += links
            others |= dict.fromkeys(inputs)
            served = None  # what it loaded and runs in is the form's
        while version is not None:
            chain.append(await self._model(version, served))
            chain.append(await self._run(who, version))
            job = await self._job_of(version.workload)
            if job is None:
                made = (("made by", version.created_by), ("outside", "no job of this platform made it"))
                chain.append(Link("job", "none", "none", made, claim=Status.UNPROVEN))
                others["everything: it was not made in a job"] = None
                break
            project = job.project
            made_by = version.workload or job.workload
            chain.append(_job(job))
            chain += await self._inputs.step(made_by)
            chain.append(await self._code(who, job))
            chain.append(await self._environment(job, served))
            chain += await self._inputs.of(made_by, job.project_id)
            others |= dict.fromkeys(_other_inputs(job))
            if upstream:
                await self._upstream(who, made_by, job.project_id, chain, others)
            # What was converted before versions had forms has a history before that: of the version that the job read.
            version, served = await self._source(version, job), None
        return Explanation(prediction_id, project, chain, tuple(others))

    async def _converted(
        self, who: Principal, version: ModelVersion, revision: Revision
    ) -> tuple[list[Link], tuple[str, ...]]:
        """The form that answered and the job that converted it, which must have been seen reading the version."""
        try:
            form = await self._forms.by_id(revision.form_id or "")
        except NotFound:
            gone = (("gone", "the form was deleted with its version"),)
            return [Link("form", revision.form_id or "", "deleted", gone, claim=Status.UNPROVEN)], (
                "what the deleted form was made of",
            )
        chain = [_form(version, form, await self._forms.verify(form), revision)]
        job = await self._job_of(f"job:{form.job_id}")
        if job is None:
            made = (("gone", "the job that converted it is not on record any more"),)
            return [*chain, Link("job", "none", "none", made, claim=Status.UNPROVEN)], ()
        if version.id not in await self._inputs.models_of(job.workload):
            unseen = (("unseen", f"the job was not seen reading {version.uri}"),)
            chain.append(Link("job", str(job.id), str(job.id), unseen, claim=Status.UNPROVEN))
        else:
            chain.append(_job(job))
        chain += [await self._code(who, job), await self._environment(job, revision)]
        return chain, _other_inputs(job)

    async def _source(self, version: ModelVersion, job: Job) -> ModelVersion | None:
        """The version that a converted one was made of, as it says *and* as its job was seen reading; None: it was not."""
        said = version.tags.get(_SOURCE_TAG)
        if said is None:
            return None
        for version_id in await self._inputs.models_of(version.workload or job.workload):
            try:
                read = await self._models.by_id(version_id)
            except NotFound:
                continue
            if read.uri == said and read.id != version.id:
                return read
        return None

    async def _upstream(
        self, who: Principal, workload: str, project_id: str, chain: list[Link], others: dict[str, None]
    ) -> None:
        """Go on above what the workload read: who wrote it, by which code and of what, nearest first, each once. It ends
        where a person put it, where it came from outside, and at other projects' work, which is theirs to show."""
        shown = {(link.kind, link.id) for link in chain}
        met = {workload}
        waiting = deque(await self._inputs.makers(workload))
        while waiting:
            maker = waiting.popleft()
            if maker in met:
                continue
            met.add(maker)
            try:
                job = await self._jobs.by_workload(maker)
            except NotFound:
                lost = (("lost", "nothing is recorded of it any more"),)
                chain.append(Link("job", maker, maker, lost, claim=Status.UNPROVEN))
                continue
            if job.project_id != project_id:
                continue
            if len(met) > _MOST_UPSTREAM + 1:
                many = (("more", f"above these are more than {_MOST_UPSTREAM} steps and jobs"),)
                chain.append(Link("upstream", "more", "not all is shown", many, claim=Status.UNPROVEN))
                return
            links = await self._inputs.step(maker) or [_job(job)]
            if job.snapshot_id is None or ("code", job.snapshot_id) not in shown:
                links.append(await self._code(who, job))
            links += await self._inputs.of(maker, project_id)
            chain += [link for link in links if (link.kind, link.id) not in shown]
            shown |= {(link.kind, link.id) for link in links}
            others |= dict.fromkeys(_other_inputs(job))
            waiting.extend(await self._inputs.makers(maker))

    # -- links -------------------------------------------------------------------------------

    async def _model(self, version: ModelVersion, revision: Revision | None) -> Link:
        hashes = _hashes(await self._models.verify(version))
        pinned = {file.path: file.sha256 for file in version.files}
        hashes += _loaded(pinned, revision)
        facts = [
            ("registered", f"{iso(version.created_at)} by {version.created_by}"),
            ("files", str(len(version.files))),
            ("formats", ", ".join(version.facts.formats) or "unknown"),
            *(("label", label) for label in version.facts.labels),
        ]
        if _SOURCE_TAG in version.tags:
            facts.append(("converted from", version.tags[_SOURCE_TAG]))
        return Link("model version", version.id, f"{version.name}/{version.version}", facts, hashes)

    async def _run(self, who: Principal, version: ModelVersion) -> Link:
        if version.run_id is None:
            said = (("none", "the model was registered without a run"),)
            return Link("run", "none", "none", said, claim=Status.UNPROVEN)
        try:
            run = await self._runs.get(who, version.project_id, version.run_id)
        except NotFound:
            gone = (("gone", "the run was deleted for good"),)
            return Link("run", version.run_id, version.run_id, gone, claim=Status.UNPROVEN)
        experiment = await self._experiments.get(who, version.project_id, run.experiment_id)
        facts = [("experiment", experiment.name), ("started", iso(run.start_time)), ("by", run.created_by)]
        facts += [(metric.key, f"{metric.value:.6g}") for metric in run.metrics[:_METRICS_SHOWN]]
        return Link("run", run.id, run.name, facts)

    async def _job_of(self, workload: str | None) -> Job | None:
        if workload is None:
            return None
        try:
            return await self._jobs.by_workload(workload)
        except NotFound:
            return None

    async def _code(self, who: Principal, job: Job) -> Link:
        source = job.source
        commit = str(source.get("commit") or "none: not a git repository")
        facts = [("commit", commit)]
        facts += [(name, str(source[name])) for name in ("branch", "remote") if source.get(name)]
        facts.append(("working tree", "with uncommitted changes" if source.get("dirty") else "clean"))
        untracked = source.get("untracked")
        if isinstance(untracked, list) and untracked:
            facts.append(
                ("untracked", ", ".join(map(str, untracked[:5])) + (" …" if len(untracked) > 5 else ""))
            )
        if job.snapshot_id is None and list(job.argv[:2]) == ["python", "-c"]:
            text = hashlib.sha256(job.argv[2].encode()).hexdigest() if len(job.argv) > 2 else ""
            return Link(
                "code", text, text[:12], (("program", "the text in the job's command, and no files"),)
            )
        if job.snapshot_id is None:
            facts.append(("files", "none were sent along"))
            return Link("code", "none", "none", facts, claim=Status.UNPROVEN)
        proof = await self._snapshots.prove(job.project_id, job.snapshot_id)
        facts.append(("files", str(proof.files)))
        whole = Status.VERIFIED if proof.manifest_ok else Status.BROKEN
        hashes = [Hash("manifest", job.snapshot_id, job.snapshot_id if proof.manifest_ok else None, whole)]
        hashes += [
            Hash(path, None, None, Status.BROKEN, "its bytes are not those recorded") for path in proof.broken
        ]
        if proof.manifest_ok and not proof.broken:
            hashes.append(Hash(f"{proof.files} files", job.snapshot_id, job.snapshot_id, Status.VERIFIED))
        hashes += await self._diff(who, job)
        name = commit[:12] if source.get("commit") else job.snapshot_id[:12]
        return Link("code", job.snapshot_id, name, facts, hashes)

    async def _diff(self, who: Principal, job: Job) -> list[Hash]:
        recorded = job.source.get("diff_sha256")
        if not isinstance(recorded, str):
            return []
        try:
            found = hashlib.sha256(await self._jobs.diff(who, job.project_id, job.id)).hexdigest()
        except NotFound:
            return [Hash("uncommitted changes", recorded, None, Status.BROKEN, "the stored diff is gone")]
        same = Status.VERIFIED if found == recorded else Status.BROKEN
        return [Hash("uncommitted changes", recorded, found, same)]

    async def _environment(self, job: Job, revision: Revision | None) -> Link:
        if job.environment_id is None:
            return Link(
                "environment", "none", "none", (("none", "none was recorded"),), claim=Status.UNPROVEN
            )
        facts = []
        try:
            environment = await self._environments.describe(job.environment_id)
            facts += [("python", environment.python_version), ("packages", str(environment.packages))]
            found = hashlib.sha256(await self._environments.lock(job.environment_id)).hexdigest()
        except NotFound:
            lost = Hash("lock", job.environment_id, None, Status.BROKEN, "the stored lock is gone")
            return Link("environment", job.environment_id, job.environment_id[:12], facts, [lost])
        if revision is not None:
            same_one = revision.environment_id == job.environment_id
            facts.append(
                (
                    "served in",
                    "the same environment" if same_one else f"another one, {revision.environment_id}",
                )
            )
        same = Status.VERIFIED if found == job.environment_id else Status.BROKEN
        hashes = [Hash("lock", job.environment_id, found, same)]
        return Link("environment", job.environment_id, job.environment_id[:12], facts, hashes)


def _prediction(prediction: Prediction) -> Link:
    facts = [("endpoint", prediction.endpoint)]
    if prediction.at is not None:
        facts += [
            ("answered", iso(prediction.at)),
            ("asked by", prediction.actor or ""),
            ("rows", str(prediction.rows)),
            ("took", f"{prediction.latency_ms} ms"),
        ]
    status = Status.VERIFIED if prediction.intact else Status.BROKEN
    row = Hash(
        "recorded row",
        prediction.id,
        prediction.id if prediction.intact else None,
        status,
        prediction.problem or "",
    )
    return Link("prediction", prediction.id, prediction.id, facts, [row])


def _revision(prediction: Prediction, revision: Revision) -> Link:
    facts = [("deployed", f"{iso(revision.created_at)} by {revision.created_by}")]
    if revision.libraries:
        facts.append(
            ("libraries", ", ".join(f"{name} {version}" for name, version in revision.libraries.items()))
        )
    if revision.form_id is not None:
        serves = f"the ONNX form of {revision.model_uri}, converted by job {revision.converted_by}"
    elif revision.asked is not None:
        serves = f"{revision.model_uri}, the ONNX form of {revision.asked}, which was asked for"
    else:
        serves = f"{revision.model_uri} by its own files, with {revision.plan.runtime}"
    facts.append(("serves", serves))
    return Link(
        "endpoint", str(prediction.revision), f"{prediction.endpoint} revision {revision.number}", facts
    )


def _hashes(checks: Sequence[FileCheck]) -> list[Hash]:
    return [Hash(check.path, check.expected, check.found, _MODEL[check.state]) for check in checks]


def _loaded(pinned: Mapping[str, str], revision: Revision | None) -> list[Hash]:
    """What the replica said it had read, against what was pinned."""
    hashes = []
    for path, loaded in sorted(revision.loaded.items() if revision is not None else ()):
        same = Status.VERIFIED if pinned.get(path) == loaded else Status.BROKEN
        hashes.append(Hash(f"{path} as loaded", pinned.get(path), loaded, same))
    return hashes


def _form(version: ModelVersion, form: Form, checks: Sequence[FileCheck], revision: Revision) -> Link:
    compared = form.parity
    facts = (
        ("of", version.uri),
        ("converted", f"{iso(form.ended_at or form.created_at)} by job {form.job_id}"),
        (
            "compared",
            f"its job noted the same answers on {compared.get('real_rows')} real rows and more made of them, "
            f"{compared.get('rows')} in all, at most {compared.get('apart')} apart",
        ),
    )
    pinned = {file.path: file.sha256 for file in revision.files}
    hashes = [*_hashes(checks), *_loaded(pinned, revision)]
    if pinned != {file.path: file.sha256 for file in form.files}:
        hashes.append(Hash("files served", None, None, Status.BROKEN, "they are not the form's"))
    return Link("form", form.id, f"{version.name}/{version.version} as ONNX", facts, hashes)


def _job(job: Job) -> Link:
    facts = [
        ("command", " ".join(map(_line, job.argv))),
        ("state", f"{job.state} (exit code {job.exit_code})"),
        ("by", job.created_by),
        ("queued", iso(job.queued_at)),
    ]
    isolation = job.isolation
    if isolation is None or isolation.sandbox == "none":
        facts.append(("isolation", "not isolated"))
    else:
        facts.append(("isolation", f"{isolation.sandbox}, network: {isolation.network}"))
    return Link("job", str(job.id), f"{job.id} ({job.name})" if job.name else str(job.id), facts)


def _line(word: str) -> str:
    """A word of a command; of a program's text its first line, since its code is a link of its own."""
    first, _, more = word.partition("\n")
    return f"{first[:100]}…" if more else word


def _other_inputs(job: Job) -> tuple[str, ...]:
    if job.isolation is None:
        return ("the machine's files", "the network")
    return tuple(job.isolation.other_inputs)
