"""Forms of versions: other files that answer like a version's own, kept beside them and never versions themselves.

A form is made by a job that loads the model in its own sandbox (`stratal.ai.models.conversion`), and handed in by that
job alone: first its file, then how the answers were compared. Until the second call the form is not `made`, and nobody
is served it.
"""

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import Connection, delete, insert, select, update

from stratal.ai.models.model import ONNX, FileCheck, Form, FormState, ModelFile, ModelVersion, State
from stratal.ai.models.rows import find_version
from stratal.ai.models.tables import model_forms
from stratal.collab.artifacts import Artifacts, files_below, insert_files, insert_root, remove, remove_root
from stratal.collab.model import Artifact, Root, RootKind
from stratal.collab.tables import artifact_roots
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.kernel.blobs import Blob, BlobStore
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Conflict, Denied, Invalid, NotFound
from stratal.kernel.events import emit
from stratal.kernel.ids import new_id

TOLERANCE = 1e-5
"""How far answers may be apart, relative where numbers are large."""
FILE = "model.onnx"
_MOST_WHY = 2000


class Forms:
    def __init__(self, database: Database, artifacts: Artifacts, clock: Clock) -> None:
        self.blobs: BlobStore = artifacts.blobs
        self._database = database
        self._artifacts = artifacts
        self._clock = clock

    # -- looking: for services that have authorised their caller --------------------------------------

    async def of(self, version: ModelVersion) -> list[Form]:
        """The version's forms, with their files."""
        return (await self.of_all([version])).get(version.id, [])

    async def of_all(self, versions: Sequence[ModelVersion]) -> dict[str, list[Form]]:
        """The forms of each version, by its id; without those that have none."""
        return await self._database.read(lambda c: forms_of(c, [version.id for version in versions]))

    async def served(self, version_id: str) -> Form | None:
        """The form that may answer for the version; None: there is none, or its answers are others."""
        found = await self._database.read(lambda c: find_form(c, version_id))
        return found if found is not None and found.state is FormState.MADE else None

    async def by_id(self, form_id: str) -> Form:
        """Raises `NotFound`."""
        found = await self._database.read(lambda c: _find(c, model_forms.c.id == form_id))
        if found is None:
            raise NotFound(f"There is no form {form_id[:60]!r}.", reason="no_such_form")
        return found

    async def verify(self, form: Form) -> list[FileCheck]:
        """Hash the form's stored bytes now, and say whether they are what they were."""
        checks = []
        for file in form.files:
            try:
                found = await self.blobs.sha256(file.blob_key)
            except NotFound:
                checks.append(FileCheck(file.path, file.sha256, None, State.MISSING))
                continue
            state = State.VERIFIED if found == file.sha256 else State.BROKEN
            checks.append(FileCheck(file.path, file.sha256, found, state))
        return checks

    # -- handing in --------------------------------------------------------------------------------

    async def receive(
        self, who: Principal, project_id: str, name: str, version: str, body: AsyncIterator[bytes]
    ) -> Blob:
        """Keep the ONNX form's file, in place of one that came before.

        Raises `NotFound`, `Conflict` when the version is not being converted, and `Denied` for anybody but the job
        that does it.
        """
        require(who, "models.write", project_id)
        await self._database.read(lambda c: _handing_in(c, who, project_id, name, version))
        writer = await self.blobs.create()
        try:
            async for chunk in body:
                await writer.write(chunk)
            blob = await writer.commit()
        except BaseException:
            await writer.abort()
            raise

        def work(connection: Connection) -> None:
            form = _handing_in(connection, who, project_id, name, version)
            if form.files:
                remove(connection, form.id, [file.path for file in form.files])
            _insert_root_once(connection, form, f"{name}/{version}")
            file = Artifact(FILE, blob.size, blob.sha256, blob.key)
            insert_files(connection, form.id, [file], self._clock(), who.actor)

        try:
            await self._database.write(work)
        except Exception:
            await self.blobs.delete(blob.key)
            raise
        await self._artifacts.drop_trash()
        return blob

    async def hand_in(
        self, who: Principal, project_id: str, name: str, version: str, parity: Mapping[str, Any], why: str
    ) -> Form:
        """Say what came of the conversion: how the answers of the file received were compared, or `why` there is none.

        Raises as `receive`, and `Invalid` for a form without a file or whose answers are too far apart.
        """
        require(who, "models.write", project_id)

        def work(connection: Connection) -> Form:
            form = _handing_in(connection, who, project_id, name, version)
            if not why:
                _check(form, parity)
            ended = FormState.REFUSED if why else FormState.MADE
            end(connection, form, ended, self._clock(), who.actor, f"{name}/{version}", why, parity)
            if why:
                remove_root(connection, form.id)
            found = _find(connection, model_forms.c.id == form.id)
            assert found is not None
            return found

        made = await self._database.write(work)
        await self._artifacts.drop_trash()
        return made


def _check(form: Form, parity: Mapping[str, Any]) -> None:
    apart, rows = parity.get("apart"), parity.get("real_rows")
    if not form.files:
        raise Invalid("The form's file was not sent before.", reason="no_file")
    if not isinstance(apart, int | float) or not math.isfinite(apart) or not 0 <= apart <= TOLERANCE:
        raise Invalid(f"Its answers are apart by {apart!r}, and at most by {TOLERANCE}.", reason="no_parity")
    if not isinstance(rows, int) or rows < 1:
        raise Invalid("Its answers were compared on no real row.", reason="no_parity")


def _handing_in(connection: Connection, who: Principal, project_id: str, name: str, version: str) -> Form:
    found = find_version(connection, project_id, name, version)
    form = find_form(connection, found.id)
    if form is None or form.state is not FormState.CONVERTING:
        raise Conflict(
            f"{found.uri} is not being converted.",
            hint=f"Have it converted: stratal models convert {found.name}/{found.version}",
            reason="not_converting",
        )
    if who.workload != f"job:{form.job_id}":
        raise Denied(
            f"Only job {form.job_id}, which converts {found.uri}, hands in what comes of it.",
            reason="not_its_job",
        )
    return form


def _insert_root_once(connection: Connection, form: Form, label: str) -> None:
    query = select(artifact_roots.c.id).where(artifact_roots.c.id == form.id)
    if connection.execute(query).first() is None:
        location = f"forms/{form.id}/artifacts"
        root = Root(form.id, form.project_id, RootKind.MODEL_FORM, location, f"{label} as ONNX", sealed=True)
        insert_root(connection, root)


# -- rows ------------------------------------------------------------------------------------------


def find_form(connection: Connection, version_id: str) -> Form | None:
    """The version's ONNX form, whatever became of it."""
    return _find(connection, model_forms.c.version_id == version_id)


def forms_of(connection: Connection, version_ids: Sequence[str]) -> dict[str, list[Form]]:
    found: dict[str, list[Form]] = {}
    for start in range(0, len(version_ids), 500):
        query = select(model_forms).where(model_forms.c.version_id.in_(version_ids[start : start + 500]))
        for row in connection.execute(query.order_by(model_forms.c.created_at, model_forms.c.id)).all():
            found.setdefault(row.version_id, []).append(_form_of(connection, row))
    return found


def note(
    connection: Connection,
    who: Principal,
    version: ModelVersion,
    state: FormState,
    now: int,
    *,
    job_id: int | None = None,
    why: str = "",
) -> bool:
    """Note where the version's ONNX form stands now. False: it is made already, or a job is at it."""
    values: dict[str, Any] = {
        "state": state.value,
        "why": why,
        "job_id": job_id,
        "parity": "{}",
        "created_at": now,
        "ended_at": now if state is FormState.REFUSED else None,
        "created_by": who.actor,
        "creator_id": who.id,
        "creator_name": who.name,
        "creator_role": who.role.value,
    }
    mine = model_forms.c.version_id == version.id
    if find_form(connection, version.id) is None:
        values |= {
            "id": new_id("mf"),
            "project_id": version.project_id,
            "version_id": version.id,
            "kind": ONNX,
        }
        connection.execute(insert(model_forms).values(values))
        return True
    settled = [FormState.MADE.value, FormState.CONVERTING.value]
    changed = update(model_forms).where(mine, model_forms.c.state.not_in(settled)).values(values)
    return connection.execute(changed).rowcount == 1


def end(
    connection: Connection,
    form: Form,
    state: FormState,
    now: int,
    actor: str,
    label: str,
    why: str = "",
    parity: Mapping[str, Any] | None = None,
) -> bool:
    """Note what a form that is being converted came to. False: it is not, by that job."""
    changed = connection.execute(
        update(model_forms)
        .where(
            model_forms.c.id == form.id,
            model_forms.c.state == FormState.CONVERTING.value,
            model_forms.c.job_id == int(form.job_id or 0),
        )
        .values(
            state=state.value,
            why=why[:_MOST_WHY],
            parity=orjson.dumps(dict(parity or {})).decode(),
            ended_at=now,
        )
    )
    if changed.rowcount != 1:
        return False
    emit(
        connection,
        f"model_form.{state.value}",
        form.id,
        actor=actor,
        project_id=form.project_id,
        name=label,
        form=form.kind,
    )
    return True


def drop_forms(connection: Connection, version_id: str) -> None:
    """Remove a version's forms and let go of their files."""
    mine = model_forms.c.version_id == version_id
    for form_id in list(connection.execute(select(model_forms.c.id).where(mine)).scalars()):
        remove_root(connection, form_id)
    connection.execute(delete(model_forms).where(mine))


def _find(connection: Connection, condition: Any) -> Form | None:
    row = connection.execute(select(model_forms).where(condition)).one_or_none()
    return None if row is None else _form_of(connection, row)


def _form_of(connection: Connection, row: Any) -> Form:
    files = files_below(connection, row.id)
    return Form(
        id=row.id,
        project_id=row.project_id,
        version_id=row.version_id,
        kind=row.kind,
        state=FormState(row.state),
        why=row.why,
        job_id=None if row.job_id is None else str(row.job_id),
        parity=orjson.loads(row.parity),
        created_at=row.created_at,
        ended_at=row.ended_at,
        created_by=row.created_by,
        files=tuple(ModelFile(f.path, f.size, f.sha256, f.blob_key) for f in files),
    )
