"""Wiring: which adapter stands behind which port, which services exist, which doors are asked in which order."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

from stratal.ai.catalog.service import Catalog
from stratal.ai.catalog.upstream import Upstream
from stratal.ai.endpoints.records import held_environments, holds_model
from stratal.ai.endpoints.room import furnish as furnish_endpoints
from stratal.ai.explain.borrowed import Borrowed
from stratal.ai.explain.impact import Impact
from stratal.ai.explain.inputs import Inputs
from stratal.ai.explain.room import Tellings
from stratal.ai.explain.why import Why
from stratal.ai.finding import Finding
from stratal.ai.finetuning.service import FineTunes, Method, Program
from stratal.ai.functions.records import held_environments as held_by_functions
from stratal.ai.functions.room import furnish as furnish_functions
from stratal.ai.functions.room import furnish_apps
from stratal.ai.models.commits import Commits
from stratal.ai.models.conversion import Conversions, Unasked
from stratal.ai.models.forms import Forms
from stratal.ai.models.logged import LoggedModels
from stratal.ai.models.registered import RegisteredModels
from stratal.ai.models.registry import Models
from stratal.ai.models.removal import purge_models
from stratal.ai.replays.room import furnish as furnish_replays
from stratal.ai.retrieval.room import furnish as furnish_retrieval
from stratal.ai.solutions.catalogue import Catalogue
from stratal.ai.solutions.results import Results
from stratal.ai.sweeps.room import furnish as furnish_sweeps
from stratal.app.client_env import REGION, client_env, library_env
from stratal.app.reporting import furnish_reports
from stratal.app.settings import (
    Settings,
    fake_gpus,
    hub_upstream,
    package_sources,
    search_path,
    smtp,
    told,
    trust,
    webhook_networks,
    zygotes,
)
from stratal.app.sharing import furnish_shares
from stratal.app.subjects import subjects
from stratal.collab.artifacts import Artifacts
from stratal.collab.collector import Collector
from stratal.collab.experiments import Experiments
from stratal.collab.repositories.room import furnish_repositories
from stratal.collab.run_search import RunSearch
from stratal.collab.runs import Runs
from stratal.collab.talk.room import furnish_talk
from stratal.collab.workspaces.records import held_environments as held_by_workspaces
from stratal.collab.workspaces.room import furnish_workspaces
from stratal.compute.departures import Departures
from stratal.compute.engine import Capacity
from stratal.compute.room import furnish
from stratal.console.app import Console
from stratal.data.features.service import FeatureViews
from stratal.data.lake.lake import Lake
from stratal.data.objects.multipart import Uploads
from stratal.data.objects.service import Objects
from stratal.data.pipelines.room import furnish as furnish_pipelines
from stratal.data.queries.service import Warehouse
from stratal.engines.batches import program as batch_program
from stratal.engines.bytecode import compile_aside
from stratal.engines.duckdb.engine import DuckDBEngine, machine_limits
from stratal.engines.finetuning import LORA_REQUIREMENTS, LORA_SERVED, lora_program
from stratal.engines.finetuning import REQUIREMENTS as FINETUNING_REQUIREMENTS
from stratal.engines.finetuning import program as finetuning_program
from stratal.engines.functions.apps import Apps as AppProgram
from stratal.engines.functions.link import Functions as FunctionProgram
from stratal.engines.local.adapter import LocalEngine, Zygotes
from stratal.engines.local.gpus import inventory
from stratal.engines.notebooks.program import RUNTIMES as WORKSPACE_RUNTIMES
from stratal.engines.optuna.adapter import OptunaAdvisor
from stratal.engines.ray.adapter import RayEngine
from stratal.engines.ray.pool import prepare
from stratal.engines.retrieval import REQUIREMENTS as INDEX_REQUIREMENTS
from stratal.engines.retrieval import program as index_program
from stratal.engines.retrieval.layouts import Layouts
from stratal.engines.runtimes.adapter import Runtimes
from stratal.engines.runtimes.conversion import TO_ONNX_REQUIREMENTS, to_onnx_script
from stratal.gateway.apps.door import AppsDoor
from stratal.gateway.budgets import refuse_beyond_budget
from stratal.gateway.chain import Chain
from stratal.gateway.console.accounts import Accounts
from stratal.gateway.console.door import ConsoleDoor
from stratal.gateway.console.in_process import AsBrowser
from stratal.gateway.credentials import Authenticator
from stratal.gateway.denials import put_on_record
from stratal.gateway.door import Door
from stratal.gateway.functions.door import FunctionsDoor
from stratal.gateway.git.door import GitDoor
from stratal.gateway.git.lfs import LfsRoutes
from stratal.gateway.held import refuse_effects
from stratal.gateway.hooks.door import HooksDoor
from stratal.gateway.hosts import UserHosts
from stratal.gateway.hub.room import furnish as furnish_hub
from stratal.gateway.iceberg.door import IcebergDoor
from stratal.gateway.in_process import InProcess
from stratal.gateway.inference.door import InferenceDoor
from stratal.gateway.mcp.door import McpDoor
from stratal.gateway.mlflow.artifacts import ArtifactRoutes
from stratal.gateway.mlflow.door import MlflowDoor
from stratal.gateway.mlflow.logged_models import LoggedModelRoutes
from stratal.gateway.mlflow.registry import RegistryRoutes
from stratal.gateway.mlflow.tracking import Tracking
from stratal.gateway.native import apps as native_apps
from stratal.gateway.native import audit as native_audit
from stratal.gateway.native import budgets as native_budgets
from stratal.gateway.native import catalog as native_catalog
from stratal.gateway.native import chat as native_chat
from stratal.gateway.native import code as native_code
from stratal.gateway.native import cost as native_cost
from stratal.gateway.native import endpoints as native_endpoints
from stratal.gateway.native import features as native_features
from stratal.gateway.native import finetuning as native_finetuning
from stratal.gateway.native import functions as native_functions
from stratal.gateway.native import instance as native_instance
from stratal.gateway.native import jobs as native_jobs
from stratal.gateway.native import merges as native_merges
from stratal.gateway.native import models as native_models
from stratal.gateway.native import nodes as native_nodes
from stratal.gateway.native import objects as native_objects
from stratal.gateway.native import people as native_people
from stratal.gateway.native import pipelines as native_pipelines
from stratal.gateway.native import predictions as native_predictions
from stratal.gateway.native import projects as native_projects
from stratal.gateway.native import quotas as native_quotas
from stratal.gateway.native import replays as native_replays
from stratal.gateway.native import reports as native_reports
from stratal.gateway.native import repositories as native_repositories
from stratal.gateway.native import retrieval as native_retrieval
from stratal.gateway.native import runs as native_runs
from stratal.gateway.native import search as native_search
from stratal.gateway.native import shares as native_shares
from stratal.gateway.native import solutions as native_solutions
from stratal.gateway.native import sql as native_sql
from stratal.gateway.native import sweeps as native_sweeps
from stratal.gateway.native import tables as native_tables
from stratal.gateway.native import talk as native_talk
from stratal.gateway.native import why as native_why
from stratal.gateway.native import workspaces as native_workspaces
from stratal.gateway.native.door import SECURE_SESSION_COOKIE, SESSION_COOKIE, NativeDoor
from stratal.gateway.openai.room import furnish as furnish_openai
from stratal.gateway.operations.door import OperationsDoor
from stratal.gateway.reports.door import ReportsDoor
from stratal.gateway.s3.door import S3Door
from stratal.gateway.traffic import count_traffic
from stratal.gateway.workspaces.door import WorkspacesDoor
from stratal.identity.federation.provider import Provider
from stratal.identity.federation.service import Federation
from stratal.identity.founding import Founded, found
from stratal.identity.keys import Keys
from stratal.identity.master import load_or_create
from stratal.identity.projects import Projects
from stratal.identity.removal import Purge, Removal
from stratal.identity.room import furnish_people
from stratal.identity.sessions import Sessions
from stratal.identity.visits import Visits
from stratal.kernel.clock import system_clock
from stratal.kernel.database import Database, is_ready
from stratal.kernel.errors import Invalid
from stratal.kernel.events import Events
from stratal.ledger.audit import Audit
from stratal.ledger.budgets import Budgets
from stratal.ledger.cost import Costs
from stratal.ledger.lineage import Lineage
from stratal.ledger.meter import Meter
from stratal.ledger.prices import Prices
from stratal.stores.local import LocalBlobs


@dataclass(slots=True)
class Platform:
    """A wired instance. `start` and `close` run in the server's event loop; `close` ends in reverse order."""

    settings: Settings
    database: Database
    founded: Founded
    chain: Chain
    starts: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    closes: list[Callable[[], Awaitable[None]]] = field(default_factory=list)

    async def start(self) -> None:
        for start in self.starts:
            await start()

    async def close(self) -> None:
        for close in reversed(self.closes):
            await close()
        self.database.close()


def wire(settings: Settings, database: Database) -> Platform:
    """Build the platform on its home directory and its database, whose schema must be up to date."""
    home = settings.home
    clock = system_clock
    starts: list[Callable[[], Awaitable[None]]] = []
    closes: list[Callable[[], Awaitable[None]]] = []

    # kernel, identity, ledger
    events = Events(database)
    master = load_or_create(home.master_key)
    keys = Keys(database, master, clock)
    projects = Projects(database, clock)
    sessions = Sessions(database, clock)
    visits = Visits(database, keys, sessions, events, clock)
    starts.append(visits.start)
    closes.append(visits.close)
    folk = furnish_people(database, keys, master, sessions, clock)
    starts.append(folk.start)
    closes.append(folk.close)
    founded = found(database, keys, clock)
    trusted = trust()
    federation = None
    if trusted is not None:
        federation = Federation(database, trusted, Provider(trusted), keys, sessions, master, clock)
        starts.append(federation.start)
        closes.append(federation.close)
    shares = furnish_shares(database, clock)
    lineage = Lineage(database, clock)
    prices = Prices(database, clock, settings.currency)
    prices.lay_out()
    meter = Meter(database, clock)
    audit = Audit(database, home.audit)
    starts.append(audit.start)
    closes.append(audit.close)
    costs = Costs(database, meter, clock)
    budgets = Budgets(database, clock, settings.currency)
    meter.watch(budgets.watched, budgets.look)
    bearer = Authenticator(keys)

    # bytes: one store per owner, so that each may sweep its own for leftovers
    object_blobs = LocalBlobs(home.blobs / "objects")
    work_blobs = LocalBlobs(home.blobs / "work")  # code snapshots, environment locks, job logs
    artifact_blobs = LocalBlobs(home.blobs / "artifacts")  # runs' artifacts and models' files
    replica_blobs = LocalBlobs(home.blobs / "replicas")  # what ended replicas wrote
    workspace_blobs = LocalBlobs(home.blobs / "workspaces")  # saves of workspaces' files
    large_blobs = LocalBlobs(home.blobs / "lfs")  # repositories' large files
    for store in (object_blobs, work_blobs, artifact_blobs, replica_blobs, workspace_blobs, large_blobs):
        store.clear_scratch()
        closes.append(store.close)

    # engines
    try:
        gpus = inventory(fake_gpus())
    except ValueError as error:
        raise Invalid(f"STRATAL_FAKE_GPUS: {error}.") from error
    engine = LocalEngine(home.keeper, home.root, home.platform_socket, gpus=gpus, zygotes=Zygotes(*zygotes()))
    starts.append(engine.connect)
    closes.append(engine.close)
    compile_aside()

    pool = None
    if settings.engine == "ray":
        port = settings.ray_port or settings.port + 1
        grow_to = settings.ray_grow_to or (0.0, 0)
        pool = RayEngine(
            home.ray,
            prepare(home.ray, home.root, home.platform_socket, settings.ray_interface, port),
            ceiling=Capacity(*grow_to),
        )
        starts.append(pool.connect)
        closes.append(pool.close)

    # compute, data, collab, ai: services are made here, lower rooms first
    compute = furnish(
        database,
        work_blobs,
        keys,
        engine,
        clock,
        environments=home.environments,
        work=home.work,
        replica_logs=replica_blobs,
        sockets=home.run / "replicas",
        checkpoints=home.checkpoints,
        sources=package_sources,
        client_env=lambda credential, project: client_env(settings.url, credential, project),
        jobs_on=pool,
    )
    starts.append(budgets.look)
    starts.append(compute.start)
    closes.append(compute.close)
    departures = Departures(events, compute.jobs)
    starts.append(departures.start)
    closes.append(departures.close)
    for source in compute.running:
        meter.follow(source)
    budgets.heed(compute.jobs.heed)
    budgets.heed(compute.services.heed)
    objects = Objects(database, object_blobs, lineage, clock)
    uploads = Uploads(database, object_blobs, objects, clock)
    starts.append(objects.start)
    closes.append(objects.close)
    lake = Lake(database, objects, lineage, clock)
    starts.append(lake.start)
    closes.append(lake.close)
    warehouse = Warehouse(
        database,
        objects,
        lake,
        DuckDBEngine(home.work / "queries"),
        lineage,
        clock,
        spool=home.work / "imports",
        limits=machine_limits(),
    )
    starts.append(warehouse.start)
    closes.append(warehouse.close)
    pipelines = furnish_pipelines(
        database, keys, compute.jobs, compute.snapshots, lake, warehouse, clock, lineage.pasts, master
    )
    starts.append(pipelines.start)
    closes.append(pipelines.close)
    features = FeatureViews(database, warehouse, lake, lineage, clock)

    shelf = furnish_repositories(
        database,
        compute.snapshots,
        lineage,
        events,
        compute.jobs.submit,
        large_blobs,
        clock,
        root=home.repositories,
        path=search_path(),
    )
    starts.append(shelf.start)
    closes.append(shelf.close)
    meter.weigh(shelf.repositories.weighed)
    studio = furnish_workspaces(
        database,
        workspace_blobs,
        compute.environments,
        compute.services,
        keys,
        visits,
        events,
        WORKSPACE_RUNTIMES,
        lambda credential, project: client_env(settings.url, credential, project),
        clock,
        root=home.workspaces,
    )
    starts.append(studio.start)
    closes.append(studio.close)
    meter.weigh(studio.saves.weighed)
    experiments = Experiments(database, clock)
    runs = Runs(database, experiments, lineage, clock)
    artifacts = Artifacts(database, artifact_blobs, lineage, clock)
    artifact_collector = Collector(database, artifact_blobs)
    starts.append(artifact_collector.start)
    closes.append(artifact_collector.close)
    models = Models(database, artifacts, lineage, clock, is_held=holds_model)
    registered = RegisteredModels(database, models, clock)
    forms = Forms(database, artifacts, clock)
    conversions = Conversions(
        database,
        models,
        registered,
        forms,
        compute.jobs,
        clock,
        to_onnx_script(),
        TO_ONNX_REQUIREMENTS,
        Unasked(settings.convert),
    )
    models.follow(conversions.registered)
    starts.append(conversions.start)
    closes.append(conversions.close)
    commits = Commits(database, models, lineage, clock)
    upstream = Upstream(*hub_upstream(), registered, commits)
    logged = LoggedModels(database, experiments, clock)
    run_search = RunSearch(database, experiments)
    serving = furnish_endpoints(
        database,
        compute.services,
        compute.environments,
        compute.jobs,
        models,
        Runtimes(),
        clock,
        forms,
        conversions,
        shares,
        spool=home.spool,
        layouts=home.models,
        variables=library_env(settings.url),
    )
    starts.append(serving.start)
    closes.append(serving.close)

    index_layouts = Layouts(home.indexes)
    starts.append(index_layouts.start)
    retrieval = furnish_retrieval(
        database,
        compute.jobs,
        objects,
        lake,
        warehouse,
        index_layouts,
        serving.serving,
        clock,
        program=index_program(),
        requirements=INDEX_REQUIREMENTS,
    )
    finetunes = FineTunes(
        models,
        objects,
        compute.jobs,
        serving.endpoints,
        {
            Method.HEAD: Program(finetuning_program(), FINETUNING_REQUIREMENTS),
            Method.LORA: Program(lora_program(), LORA_REQUIREMENTS, LORA_SERVED),
        },
    )
    sweeping = furnish_sweeps(
        database, compute.jobs, experiments, runs, models, registered, OptunaAdvisor(), clock
    )
    starts.append(sweeping.conductor.start)
    closes.append(sweeping.conductor.close)
    functions = furnish_functions(
        database,
        keys,
        compute.environments,
        compute.snapshots,
        compute.services,
        FunctionProgram(),
        events,
        lambda credential, project: client_env(settings.url, credential, project),
        clock,
        layouts=home.functions,
    )
    starts.append(functions.start)
    closes.append(functions.close)
    apps = furnish_apps(
        database,
        keys,
        compute.environments,
        compute.snapshots,
        compute.services,
        visits,
        AppProgram(),
        events,
        lambda credential, project: client_env(settings.url, credential, project),
        clock,
        layouts=home.apps,
    )
    starts.append(apps.start)
    closes.append(apps.close)

    why = Why(
        serving.predictions,
        serving.endpoints,
        models,
        forms,
        experiments,
        runs,
        compute.jobs,
        compute.snapshots,
        compute.environments,
        Inputs(lineage, objects, lake, pipelines.runs, projects.name_of),
        Borrowed(database, projects.name_of),
    )

    tellings = Tellings(database, lake, pipelines.runs)
    reports = furnish_reports(database, runs, warehouse, lake, tellings.columns, why, clock)

    talk = furnish_talk(
        database,
        master,
        events,
        subjects(
            runs,
            registered,
            lake,
            serving.endpoints,
            compute.jobs,
            functions.functions,
            apps.apps,
            shelf,
            studio,
            reports,
        ),
        clock,
        url=settings.url,
        smtp=smtp(),
        networks=webhook_networks(),
    )
    starts.append(talk.start)
    closes.append(talk.close)
    replaying = furnish_replays(
        database,
        compute.jobs,
        compute.snapshots,
        compute.environments,
        objects,
        lake,
        warehouse,
        pipelines.runs,
        runs,
        artifact_blobs,
        lineage.pasts,
        clock,
    )
    starts.append(replaying.conductor.start)
    closes.append(replaying.conductor.close)

    async def collect_environments() -> None:
        await compute.environments.collect(
            lambda c: held_environments(c) | held_by_functions(c) | held_by_workspaces(c)
        )

    # what removing a project means in each room, highest first
    purges: list[Purge] = [
        shares.purge,
        reports.purge,
        talk.purge,
        features.purge,
        replaying.replays.purge,
        sweeping.sweeps.purge,
        retrieval.indexes.purge,
        apps.apps.purge,
        functions.functions.purge,
        serving.endpoints.purge,
        partial(purge_models, database),
        studio.workspaces.purge,
        artifact_collector.purge,
        shelf.purge,
        pipelines.purge,
        warehouse.purge,
        lake.purge,
        objects.purge,
        compute.jobs.purge,
        lineage.purge,
        budgets.purge,
        lambda _: collect_environments(),
    ]
    removal = Removal(database, keys, projects, clock, purges)
    starts.append(removal.resume)

    starts.append(meter.start)
    closes.append(meter.close)

    # doors, in the order in which they are asked
    user_hosts = UserHosts(settings.user_domain)
    workspaces_door = WorkspacesDoor(
        studio,
        user_hosts,
        console=settings.url,
        secure=settings.tls_certificate is not None,
        cookies=(SESSION_COOKIE, SECURE_SESSION_COOKIE),
    )
    closes.append(workspaces_door.close)
    apps_door = AppsDoor(
        bearer,
        apps,
        user_hosts,
        console=settings.url,
        secure=settings.tls_certificate is not None,
        cookies=(SESSION_COOKIE, SECURE_SESSION_COOKIE),
    )

    def at_host(label: str) -> str:
        return user_hosts.url(label, settings.url)

    invocations = native_endpoints.invocations(serving.serving, projects)
    journal = native_pipelines.journal(pipelines, projects)
    native = NativeDoor(
        bearer,
        sessions,
        [
            native_projects.router(keys, projects, removal, sessions, events),
            native_people.router(folk, projects, settings.url.partition("://")[2]),
            native_instance.router(told(settings)),
            native_shares.router(projects, shares),
            native_reports.router(projects, reports, settings.url),
            native_audit.router(audit, projects),
            native_cost.router(projects, costs, prices),
            native_budgets.router(projects, budgets),
            native_jobs.router(compute.jobs, projects),
            native_code.router(compute.jobs, compute.snapshots, projects),
            native_quotas.router(compute.quotas, projects),
            native_nodes.router(compute.nodes, projects),
            native_objects.router(projects, objects),
            native_tables.router(projects, lake, warehouse),
            native_pipelines.router(pipelines, projects, objects, settings.url, journal),
            native_features.router(features, projects),
            native_sql.router(projects, warehouse),
            native_repositories.router(shelf, projects, settings.url),
            native_workspaces.router(studio, projects, at_host),
            native_merges.router(shelf, projects),
            native_runs.router(projects, experiments, runs, run_search, artifacts),
            native_models.router(projects, registered, models, forms, conversions),
            native_sweeps.router(sweeping.sweeps, projects),
            native_retrieval.router(retrieval, projects),
            native_finetuning.router(finetunes, projects),
            native_catalog.router(
                projects,
                Catalog(database, registered, commits, compute.environments, upstream, clock),
                upstream,
            ),
            native_endpoints.router(serving.endpoints, projects, settings.url, invocations),
            native_chat.router(serving.serving, projects),
            native_functions.router(functions.functions, functions.invocations, projects, settings.url),
            native_apps.router(apps, projects, at_host),
            native_predictions.router(serving.predictions),
            native_talk.router(talk, projects),
            native_search.router(projects, Finding(database)),
            native_why.router(
                why,
                Impact(database, serving.predictions),
                tellings,
                projects,
            ),
            native_replays.router(replaying.replays, projects),
            native_solutions.router(projects, Catalogue(), Results(objects)),
        ],
        [(native_endpoints.INVOCATIONS, invocations), (native_pipelines.JOURNAL, journal)],
    )
    gate = partial(refuse_beyond_budget, budgets)
    within = InProcess(native, gate)
    agents = McpDoor(bearer, within)
    closes.append(agents.close)
    console = Console(
        AsBrowser(within, SESSION_COOKIE),
        Accounts(folk, federation),
        cookie=SESSION_COOKIE if settings.tls_certificate is None else SECURE_SESSION_COOKIE,
        secure=settings.tls_certificate is not None,
    )
    doors: list[Door] = [
        apps_door,  # first, and the workspaces': their host names are nobody else's
        workspaces_door,
        S3Door(keys, objects, uploads, clock),
        OperationsDoor({"database": lambda: is_ready(database)}),
        HooksDoor(pipelines.deployed),
        native,
        MlflowDoor(
            bearer,
            Tracking(experiments, runs, run_search),
            ArtifactRoutes(artifacts),
            LoggedModelRoutes(logged, artifacts),
            RegistryRoutes(registered, models),
        ),
        IcebergDoor(bearer, keys, projects, lake, region=REGION),
        furnish_hub(bearer, keys, projects, registered, commits, objects, clock),
        InferenceDoor(bearer, serving.serving),
        furnish_openai(
            bearer,
            serving.serving,
            objects,
            compute.jobs,
            finetunes,
            clock,
            batch_program=batch_program(),
        ),
        GitDoor(bearer, projects, shelf.traffic, LfsRoutes(projects, shelf.lfs)),
        agents,
        ReportsDoor(reports),
        FunctionsDoor(bearer, functions.registry, functions.calling, functions.invocations),
        ConsoleDoor(console),  # last: it answers whatever nobody else does
    ]
    return Platform(
        settings=settings,
        database=database,
        founded=founded,
        chain=Chain(
            doors,
            hosts=settings.answers_to,
            any_address=settings.everywhere,
            elsewhere=[apps_door, workspaces_door],
            count=partial(count_traffic, meter),
            deny=partial(put_on_record, audit),
            gate=gate,
            past=partial(refuse_effects, lineage.pasts),
            of_key=keys.principal_of,
        ),
        starts=starts,
        closes=closes,
    )
