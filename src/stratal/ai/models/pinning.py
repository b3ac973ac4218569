"""Making a version: its rows, and a sealed directory that names its files from now on."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, delete, insert, select, update

from stratal.ai.models.forms import drop_forms
from stratal.ai.models.model import STAGES, Facts, ModelVersion
from stratal.ai.models.rows import facts_text, find_model, with_files
from stratal.ai.models.sources import Source, open_source
from stratal.ai.models.tables import logged_models, model_version_tags, model_versions, registered_models
from stratal.collab.artifacts import find_root, insert_files, insert_root, remove_root
from stratal.collab.loading import find as find_run
from stratal.collab.model import Artifact, Root, RootKind
from stratal.collab.upsert import upsert
from stratal.identity.model import Principal
from stratal.kernel.errors import Invalid
from stratal.kernel.events import emit
from stratal.kernel.ids import new_id

PROMPT_TAG = "mlflow.prompt.is_prompt"


@dataclass(frozen=True, slots=True)
class NewVersion:
    """What a client says of a version. `source`: see `sources.open_source`."""

    source: str
    run_id: str = ""
    run_link: str = ""
    logged_model_id: str = ""
    description: str = ""
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def is_prompt(self) -> bool:
        """MLflow keeps prompts as versions whose text is a tag; they have no files."""
        return self.tags.get(PROMPT_TAG, "").lower() == "true"


@dataclass(frozen=True, slots=True)
class _Origin:
    run_id: str | None
    logged_model_id: str | None
    workload: str | None


def pin(
    connection: Connection,
    who: Principal,
    project_id: str,
    name: str,
    new: NewVersion,
    facts: Facts,
    read: Source | None,
    now: int,
) -> ModelVersion | None:
    """Make the next version of `name`, in the caller's write.

    None when the source's files are not `read`'s any more, which `facts` were read from. `read` is None
    for a version without files.
    """
    model = find_model(connection, project_id, name)
    files: tuple[Artifact, ...] = ()
    if read is not None:
        files = open_source(connection, project_id, new.source).files
        if files != read.files:
            return None
    origin = _origin(connection, who, project_id, new, read.root if read else None)
    number = connection.execute(
        update(registered_models)
        .where(registered_models.c.id == model.id)
        .values(last_version=registered_models.c.last_version + 1, updated_at=now)
        .returning(registered_models.c.last_version)
    ).scalar_one()
    made = ModelVersion(
        id=new_id("mv"),
        project_id=project_id,
        name=name,
        version=number,
        source=new.source,
        run_id=origin.run_id,
        run_link=new.run_link,
        logged_model_id=origin.logged_model_id,
        workload=origin.workload,
        description=new.description,
        stage=STAGES[0],
        created_at=now,
        updated_at=now,
        created_by=who.actor,
        facts=facts,
        tags=new.tags,
    )
    insert_pinned(connection, made, model.id, files, who.actor)
    return with_files(connection, made)


def insert_pinned(
    connection: Connection, made: ModelVersion, model_id: str, files: Sequence[Artifact], actor: str
) -> None:
    """Insert a version, and the sealed directory that names its files, in the caller's write."""
    _insert(connection, made, model_id)
    label = f"{made.name}/{made.version}"
    root = Root(made.id, made.project_id, RootKind.MODEL_VERSION, location_of(made), label, sealed=True)
    insert_root(connection, root)
    insert_files(connection, made.id, files, made.created_at, actor)
    emit(connection, "model_version.created", made.id, actor=actor, project_id=made.project_id, name=label)


def unpin(connection: Connection, version: ModelVersion) -> None:
    """Remove a version's rows, its forms too, and let go of their files, in the caller's write."""
    drop_forms(connection, version.id)
    remove_root(connection, version.id)
    connection.execute(delete(model_version_tags).where(model_version_tags.c.version_id == version.id))
    connection.execute(delete(model_versions).where(model_versions.c.id == version.id))


def location_of(version: ModelVersion) -> str:
    """Where a version's pinned files lie among the artifacts."""
    return f"versions/{version.id}/artifacts"


def _insert(connection: Connection, made: ModelVersion, model_id: str) -> None:
    values = {slot: getattr(made, slot) for slot in ModelVersion.__slots__ if slot in model_versions.c}
    connection.execute(
        insert(model_versions).values({**values, "model_id": model_id, "facts": facts_text(made.facts)})
    )
    rows = [{"version_id": made.id, "key": key, "value": value} for key, value in made.tags.items()]
    upsert(connection, model_version_tags, rows, ("version_id", "key"))


def _origin(
    connection: Connection, who: Principal, project_id: str, new: NewVersion, root: Root | None
) -> _Origin:
    """Who made the files: told by where they lie, not by what the client says. Raises `Invalid` on a difference."""
    run_id, logged_id, workload = None, None, None
    if root is not None and root.kind is RootKind.RUN:
        run_id = root.id
    elif root is not None and root.kind is RootKind.LOGGED_MODEL:
        row = connection.execute(select(logged_models).where(logged_models.c.id == root.id)).one()
        run_id, logged_id, workload = row.source_run_id, row.id, row.workload
    elif root is not None:
        row = connection.execute(select(model_versions).where(model_versions.c.id == root.id)).one()
        run_id, logged_id, workload = row.run_id, row.logged_model_id, row.workload
    for said, known, what in ((new.run_id, run_id, "run"), (new.logged_model_id, logged_id, "logged model")):
        if said and said != known:
            find_root(connection, project_id, said)
        if said and known and said != known:
            raise Invalid(
                f"The source {new.source[:200]!r} is of {what} {known}, not {said[:100]!r}.",
                reason="bad_source",
            )
    if new.run_id:
        run_id = run_id or find_run(connection, project_id, new.run_id).id
    if run_id is not None and workload is None:
        workload = find_run(connection, project_id, run_id).workload
    return _Origin(run_id, logged_id, workload or (who.workload if run_id is None else None))
