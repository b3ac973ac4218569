"""The registry: the models, one with its versions, and a version with its pinned files and where it came from."""

from shlex import join, quote

from starlette.responses import Response

from stratal.console.listing import Column, arrange
from stratal.console.native import Json, Refused, segment
from stratal.console.pages.repositories import code_of, commit_href
from stratal.console.render import Ways
from stratal.console.shown import number as number_shown
from stratal.console.view import View

COLUMNS = (
    Column("name", "Model", lambda model: model["name"]),
    Column("latest", "Latest version", lambda model: model.get("latest_version"), numeric=True),
    Column("aliases", "Aliases", lambda model: " ".join(model.get("aliases") or ())),
    Column("description", "Description", lambda model: model.get("description")),
    Column("changed", "Changed", lambda model: model.get("updated_at")),
)


async def models(view: View) -> Response:
    answer = await view.get("/models", limit=1000)
    return view.page(
        "models.html",
        "Registry",
        at="models",
        live="model",
        ways=Ways(
            cli=f"stratal models {view.flag}",
            python="import mlflow  # with the variables of `stratal env`\n\nmlflow.search_registered_models()",
        ),
        listing=arrange(
            answer["models"], COLUMNS, view.query, more=answer.get("next_page_token") is not None
        ),
    )


async def model(view: View) -> Response:
    name = view.part("model")
    told = await view.get(f"/models/{segment(name)}")
    return view.page(
        "model.html",
        str(told["name"]),
        at="models",
        live="model",
        ways=Ways(
            cli=f"stratal models show {quote(name)} {view.flag}",
            python="from mlflow import MlflowClient  # with the variables of `stratal env`\n\n"
            f"MlflowClient().search_model_versions({f'name={name!r}'!r})",
        ),
        model=told,
    )


async def version(view: View) -> Response:
    """One version: a page, or in the side panel the chain that it came from."""
    name, number = view.part("model"), view.part("version")
    path = f"/models/{segment(name)}/versions/{segment(number)}"
    told = await view.get(path)
    if "panel" in view.request.query_params:
        return view.fragment("chain.html", chain=await _chain(view, told, path))
    endpoints = await view.attempt("/endpoints")
    served = [
        e
        for e in (endpoints["endpoints"] if not isinstance(endpoints, Refused) else ())
        if e.get("model") == told["name"] and str(e.get("version")) == str(told["version"])
    ]
    uri = str(told["uri"])
    return view.page(
        "version.html",
        f"{told['name']} / {told['version']}",
        at="models",
        live="model endpoint.",
        ways=Ways(
            cli=f"stratal models show {quote(uri.removeprefix('models:/'))} {view.flag}\n"
            f"stratal deploy {quote(uri)} --name my-endpoint {view.flag}",
            python=f"import mlflow  # with the variables of `stratal env`\n\nmlflow.pyfunc.load_model({uri!r})",
        ),
        version=told,
        served=served,
        code=await code_of(view, told.get("job")),
    )


async def proof(view: View) -> Response:
    """Every pinned file of a version hashed again just now: put into the version's page when asked for."""
    path = f"/models/{segment(view.part('model'))}/versions/{segment(view.part('version'))}"
    return view.fragment("version_proof.html", told=await view.attempt(f"{path}/verify"))


async def _chain(view: View, version: Json, path: str) -> list[Json]:
    """Model version → run → job → code → environment, as far as each is there. Only the version's files are hashed."""
    checked = await view.attempt(f"{path}/verify")
    hashes = [
        {
            "what": file["path"],
            "recorded": file["expected"],
            "recomputed": file["found"],
            "status": file["state"],
        }
        for file in (checked["files"] if not isinstance(checked, Refused) else ())
    ]
    links: list[Json] = [
        {
            "kind": "model version",
            "name": f"{version['name']}/{version['version']}",
            "href": view.base + path,
            "status": "verified" if hashes and all(h["status"] == "verified" for h in hashes) else "broken",
            "facts": [
                ("registered by", version.get("created_by")),
                ("formats", ", ".join(version["formats"])),
            ],
            "hashes": hashes,
        }
    ]
    run_id, number = version.get("run_id"), version.get("job")
    if run_id:
        run = await view.attempt(f"/runs/{segment(str(run_id))}", points=2)
        if not isinstance(run, Refused):
            facts = [("experiment", run.get("experiment")), ("state", run.get("state"))]
            facts += [(key, number_shown(value)) for key, value in sorted(run["metrics"].items())[:6]]
            links.append(
                {
                    "kind": "run",
                    "name": run["name"],
                    "href": f"{view.base}/runs/{segment(str(run_id))}",
                    "facts": facts,
                }
            )
    if number:
        job = await view.attempt(f"/jobs/{segment(str(number))}")
        if not isinstance(job, Refused):
            links += _made_by(view, job)
            href = await commit_href(view, job.get("source") or {})
            if href is not None:
                name = str(job["source"]["commit"])[:12]
                links.append({"kind": "commit", "name": name, "href": href, "facts": []})
    return links


def _made_by(view: View, job: Json) -> list[Json]:
    source, isolation = job.get("source") or {}, job.get("isolation") or {}
    page = f"{view.base}/jobs/{segment(str(job['id']))}"
    links: list[Json] = [
        {
            "kind": "job",
            "name": f"{job['id']} {job.get('name') or ''}".strip(),
            "href": page,
            "facts": [("command", join(job.get("argv") or ())), ("isolation", isolation.get("state"))],
        }
    ]
    if job.get("snapshot"):
        commit = source.get("commit")
        tree = "with uncommitted changes" if source.get("dirty") else "clean"
        facts = [("commit", commit or "none"), ("working tree", tree if commit else None)]
        links.append(
            {"kind": "code", "name": str(job["snapshot"])[:12], "href": f"{page}/code", "facts": facts}
        )
    if job.get("environment"):
        lock = f"/api/v1{view.base}/environments/{segment(str(job['environment']))}/lock"
        links.append({"kind": "environment", "name": str(job["environment"])[:12], "href": lock, "facts": []})
    return links
