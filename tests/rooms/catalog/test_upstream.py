"""Pulling from a hub: the platform's own Hub door is the hub, or one that lies."""

import gzip
import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from stratal.ai.catalog.upstream import Upstream, parse_source
from stratal.ai.models.commits import Commits
from stratal.ai.models.reading import read_facts
from stratal.ai.models.registered import RegisteredModels
from stratal.ai.models.registry import Models
from stratal.collab.artifacts import Artifacts
from stratal.engines.runtimes.adapter import Runtimes
from stratal.identity.model import Kind, Principal, Role
from stratal.identity.projects import Projects
from stratal.kernel.clock import system_clock
from stratal.kernel.errors import Denied, Invalid, NotFound, StratalError
from stratal.ledger.lineage import Lineage
from stratal.stores.local import LocalBlobs
from wired import Wired

pytestmark = pytest.mark.fast

BOMB = gzip.compress(b"[" * (6 << 20))
WEIGHTS = b"\0weights" * 100
PICKLE = b"\x80\x04}."
COMMIT = "1" * 40
Files = dict[str, bytes]


@pytest.fixture(scope="module")
def wired(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wired]:
    running = Wired(tmp_path_factory.mktemp("upstream") / "home")
    running.project("org")
    yield running
    running.close()


def puller(wired: Wired, transport: httpx.AsyncBaseTransport, token: str = "") -> Callable[..., Any]:
    """Pull into the project ``default`` over `transport`, as an editor unless said otherwise."""
    database = wired.platform.database
    lineage = Lineage(database, system_clock)
    blobs = LocalBlobs(wired.platform.settings.home.blobs / "artifacts")
    models = Models(database, Artifacts(database, blobs, lineage, system_clock), lineage, system_clock)
    names = RegisteredModels(database, models, system_clock)
    commits = Commits(database, models, lineage, system_clock)
    upstream = Upstream("http://127.0.0.1:8484/hub", token, names, commits, transport)

    def pull(source: str, role: Role = Role.EDITOR, **options: Any) -> Any:
        async def work() -> Any:
            admin = Principal(Kind.SERVICE, "admin", "admin", "", "default", Role.ADMIN)
            place = await Projects(database, system_clock).get(admin, "default")
            who = Principal(Kind.SERVICE, "k", "k", place.id, "default", role)
            return await upstream.pull(who, place.id, source, **options)

        return wired._runner.run(work())

    return pull


def kept(wired: Wired) -> dict[str, Any]:
    """What must be the same after a refused pull."""
    rows = wired.rows()
    return {
        name: rows[name] for name in ("registered_models", "model_versions", "artifacts", "artifact_roots")
    }


def test_a_model_of_our_own_hub_door_becomes_a_version_pinned_to_its_commit(wired: Wired) -> None:
    key = wired.key("org", "editor")
    wired.ask("POST", "/hub/api/repos/create", key, json={"name": "tiny"})
    lines = [b'{"key": "header", "value": {"summary": "first"}}']
    for path, data in {
        "config.json": b"{}",
        "w.safetensors": b"abc",
        "training_args.bin": PICKLE,
        "x.py": b"1",
    }.items():
        lines.append(
            b'{"key": "file", "value": {"path": "%s", "content": "%s"}}'
            % (path.encode(), data.hex().encode())
        )
    wired.ask("POST", "/hub/api/models/org/tiny/commit/main", key, body=b"\n".join(lines))
    head = wired.ask("GET", "/hub/api/models/org/tiny", key).json()["sha"]
    pull = puller(wired, httpx.ASGITransport(wired.platform.chain), key)
    made = pull("hf:org/tiny@main")
    assert (made.commit, made.version.name, made.version.version) == (head, "tiny", 1)
    assert {file.path for file in made.version.files} == {"config.json", "w.safetensors", "training_args.bin"}
    assert dict(made.left_out) == {"x.py": "nothing here loads it"}
    assert head in made.version.description
    assert pull(f"hf:org/tiny@{head}").version.id == made.version.id
    with pytest.raises(NotFound):
        pull("hf:org/none")
    with pytest.raises(NotFound):
        puller(wired, httpx.ASGITransport(wired.platform.chain), wired.key("default", "viewer"))(
            "hf:org/tiny"
        )


def hub(
    files: Files, *, told: dict[str, Any] | None = None, names: list[str] | None = None
) -> httpx.MockTransport:
    """A hub with `files`; `told` replaces what it says of each, `names` what it calls them."""

    def answer(request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/hub")
        if path.startswith("/api/models/"):
            siblings = []
            for name, data in files.items():
                sha256 = hashlib.sha256(data).hexdigest()
                said = {"rfilename": name, "size": len(data), "lfs": {"sha256": sha256, "size": len(data)}}
                siblings.append({**said, **(told or {})})
            siblings += [{"rfilename": name, "size": 1, "blobId": "x"} for name in names or []]
            return httpx.Response(200, json={"sha": COMMIT, "siblings": siblings})
        name = path.partition(f"/resolve/{COMMIT}/")[2]
        return httpx.Response(200, content=files[name]) if name in files else httpx.Response(404)

    return httpx.MockTransport(answer)


@pytest.mark.parametrize(
    ("transport", "reason"),
    [
        (hub({"a.safetensors": WEIGHTS}, names=["../../etc/passwd"]), "bad_path"),
        (hub({"a.safetensors": WEIGHTS}, names=["/etc/passwd"]), "bad_path"),
        (hub({"a.safetensors": WEIGHTS}, names=["a/%2e%2e/b"]), "bad_path"),
        (
            hub({"a.safetensors": WEIGHTS}, told={"lfs": {"sha256": "0" * 64, "size": len(WEIGHTS)}}),
            "wrong_checksum",
        ),
        (hub({"a.safetensors": WEIGHTS}, told={"lfs": {"sha256": "0" * 64, "size": 7}}), "wrong_size"),
        (hub({"config.json": b"{}"}, told={"lfs": None, "blobId": "0" * 40}), "wrong_checksum"),
        (hub({"a.safetensors": WEIGHTS}, names=["b.json"]), "upstream_failed"),
        (hub({"pytorch_model.bin": PICKLE}), "pickle_refused"),
        (hub({"model.pkl": b"anything"}), "pickle_refused"),
        (hub({}, told={}), "no_files"),
        (hub({"bomb.zip": b"PK\3\4" + b"\0" * 100}), "no_files"),
        (
            httpx.MockTransport(
                lambda _: httpx.Response(200, content=BOMB, headers={"Content-Encoding": "gzip"})
            ),
            "upstream_failed",
        ),
        (httpx.MockTransport(lambda _: httpx.Response(500)), "upstream_failed"),
        (httpx.MockTransport(lambda _: httpx.Response(200, content=b"<html>")), "upstream_failed"),
        (
            httpx.MockTransport(lambda _: httpx.Response(200, json={"sha": "main", "siblings": []})),
            "upstream_failed",
        ),
    ],
)
def test_what_cannot_be_trusted_is_refused_and_nothing_is_kept(
    wired: Wired, transport: httpx.MockTransport, reason: str
) -> None:
    before = kept(wired)
    with pytest.raises(StratalError) as refused:
        puller(wired, transport)("hf:bad/one", name="bad-one")
    assert refused.value.reason == reason
    assert kept(wired) == before


def test_pickles_are_left_out_beside_other_weights_and_taken_only_when_an_owner_says_so(wired: Wired) -> None:
    pull = puller(wired, hub({"a.safetensors": WEIGHTS, "pytorch_model.bin": PICKLE}))
    made = pull("hf:some/model@v1")
    assert [file.path for file in made.version.files] == ["a.safetensors"]
    assert dict(made.left_out) == {"pytorch_model.bin": "it carries a pickle"}
    with pytest.raises(Denied):
        pull("hf:some/model", pickles=True)
    trusted = pull("hf:some/model", Role.OWNER, pickles=True).version
    assert (trusted.version, trusted.facts.labels) == (2, ("contains pickle",))


def test_one_of_several_files_of_weights_is_taken_where_a_pattern_says_which_and_is_served_by_its_kind(
    wired: Wired,
) -> None:
    files = {f"tiny-{kind}.gguf": b"GGUF" + kind.encode() for kind in ("Q4_K_M", "Q8_0")}
    pull = puller(wired, hub({**files, "README.md": b"tiny"}))
    made = pull("hf:many/kinds", only="*Q4_K_M*")
    assert [file.path for file in made.version.files] == ["README.md", "tiny-Q4_K_M.gguf"]
    assert dict(made.left_out) == {"tiny-Q8_0.gguf": "not asked for"}
    plan = Runtimes().plan(made.version.facts.flavors, None, [file.path for file in made.version.files])
    assert (plan.runtime, plan.options) == ("gguf", {"file": "tiny-Q4_K_M.gguf"})
    with pytest.raises(Invalid, match="No weights there are like"):
        pull("hf:many/kinds", only="*Q2*")
    both = pull("hf:many/kinds").version
    with pytest.raises(Invalid, match="2 GGUF files"):
        Runtimes().plan(both.facts.flavors, None, [file.path for file in both.files])
    parts = read_facts({}, ["m-00002-of-00002.gguf", "m-00001-of-00002.gguf", "mmproj-m.gguf"])
    assert parts.flavors["gguf"] == {"files": ["m-00001-of-00002.gguf"]}


@pytest.mark.parametrize(
    ("config", "files", "runtime"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, [], "transformers"),
        ({"architectures": ["BertForSequenceClassification"]}, [], "classify"),
        ({"architectures": ["BertForTokenClassification"]}, [], "entities"),
        ({"architectures": ["BertForQuestionAnswering"]}, [], "answer"),
        ({"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"}, [], "rewrite"),
        ({"architectures": ["MarianMTModel"], "model_type": "marian"}, [], "rewrite"),
        ({"architectures": ["ViTForImageClassification"]}, [], "classify-image"),
        ({"architectures": ["YolosForObjectDetection"]}, [], "detect"),
        ({"architectures": ["WhisperForConditionalGeneration"], "model_type": "whisper"}, [], "transcribe"),
        ({"architectures": ["Wav2Vec2ForCTC"]}, [], "transcribe"),
        ({"architectures": ["BertModel"]}, ["modules.json"], "embed"),
        ({"architectures": ["BertModel"]}, [], None),
        ({"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava"}, [], None),
        ({"architectures": ["LlamaForCausalLM"], "auto_map": {"AutoModel": "x.Model"}}, [], None),
    ],
)
def test_a_models_architecture_says_how_it_is_served_and_never_from_a_pickle_or_by_code_of_its_own(
    config: dict[str, Any], files: list[str], runtime: str | None
) -> None:
    texts = {"config.json": json.dumps({"model_type": "bert", **config}).encode()}
    paths = ["config.json", *files]
    flavors = read_facts(texts, paths).flavors
    if runtime is None:
        with pytest.raises(Invalid):
            Runtimes().plan(flavors, None, [*paths, "model.safetensors"])
        return
    plan = Runtimes().plan(flavors, None, [*paths, "model.safetensors"])
    assert (plan.options.get("task") or plan.runtime) == runtime
    assert "safetensors" in plan.requirements
    with pytest.raises(Invalid, match="pickled weights are not opened"):
        Runtimes().plan(flavors, None, [*paths, "pytorch_model.bin"])


def test_a_single_onnx_file_is_served_by_its_graph() -> None:
    facts = read_facts({"config.json": b'{"model_type": "bert"}'}, ["config.json", "onnx/model.onnx"])
    plan = Runtimes().plan(facts.flavors, None, ["config.json", "onnx/model.onnx"])
    assert (plan.runtime, plan.options["file"]) == ("onnx", "onnx/model.onnx")
    for architecture, more, task in (
        ("BertForSequenceClassification", [], "classify"),
        ("BertModel", ["modules.json"], "embed"),
        ("BertForTokenClassification", [], None),
    ):
        config = {"config.json": json.dumps({"model_type": "bert", "architectures": [architecture]}).encode()}
        paths = ["config.json", "onnx/model.onnx", "tokenizer.json", *more]
        plan = Runtimes().plan(read_facts(config, paths).flavors, None, paths)
        assert (plan.runtime, plan.options.get("task")) == ("onnxtext" if task else "onnx", task)
        assert "torch" not in plan.requirements
    several = read_facts({}, ["a.onnx", "b.onnx"])
    assert "onnx" not in several.flavors


def test_a_name_that_is_another_models_is_not_taken(wired: Wired) -> None:
    pull = puller(wired, hub({"a.safetensors": WEIGHTS}))
    pull("hf:one/same")
    with pytest.raises(StratalError) as refused:
        pull("hf:two/same")
    assert refused.value.reason == "model_exists"


def test_without_a_setting_nothing_is_asked_and_a_source_is_checked(wired: Wired) -> None:
    answer = wired.ask(
        "POST", "/api/v1/projects/default/catalog/pulls", wired.admin, json={"source": "hf:org/name"}
    )
    assert answer.json()["error"]["code"] == "no_upstream"
    assert parse_source("hf:a/b@refs-x.1").revision == "refs-x.1"
    for wrong in ("a/b", "hf:a", "hf:a/b/c", "hf:../b", "hf:a/b@../x", "hf:a/b@x/y", "hf:a/b?x"):
        with pytest.raises(Invalid):
            parse_source(wrong)
