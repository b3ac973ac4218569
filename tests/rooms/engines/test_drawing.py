"""Pictures drawn in turns by one pipeline: what a real one draws is told by tests/clients/hub."""

import base64
import sys
import threading
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stratal.engines.runtimes.adapter import Runtimes
from stratal.engines.runtimes.replica.arrays import Invalid
from stratal.engines.runtimes.replica.diffusers_model import DiffusersModel, stepwise
from stratal.kernel.errors import Invalid as Refused

pytestmark = pytest.mark.fast


class Schedule:
    """Counts a picture's steps, as schedulers do."""

    def __init__(self) -> None:
        self.done = 0


class Picture:
    def __init__(self, said: str) -> None:
        self.said = said

    def save(self, out: Any, kind: str) -> None:
        out.write(f"{kind} {self.said}".encode())


class Pipeline:
    """Draws its words, its seed and how many steps its scheduler counted."""

    vae_scale_factor = 8

    def __init__(self) -> None:
        self.scheduler = Schedule()

    def __call__(
        self,
        prompt: str,
        width: int = 64,
        height: int = 64,
        num_inference_steps: int = 3,
        guidance_scale: float = 7.5,
        generator: Any = None,
        callback_on_step_end: Any = None,
    ) -> Any:
        if prompt == "odd":
            raise ValueError("not that")
        for number in range(num_inference_steps):
            self.scheduler.done += 1
            callback_on_step_end(self, number, 0, {})
        picture = Picture(f"{prompt} {width}x{height} {guidance_scale} {generator} {self.scheduler.done}")
        return SimpleNamespace(images=[picture], nsfw_content_detected=[prompt == "indecent"])


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> DiffusersModel:
    torch = ModuleType("torch")
    torch.Generator = lambda _device: SimpleNamespace(manual_seed=lambda seed: seed)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", torch)
    return DiffusersModel(Pipeline(), {}, {})


def end_of(pieces: Any) -> Any:
    return list(pieces)[-1]


def drawn(end: Any) -> list[str]:
    return [base64.b64decode(image).decode() for image in end["images"]]


def test_pictures_in_turns_do_not_disturb_each_other_and_each_has_its_own_seed(model: DiffusersModel) -> None:
    asked = [{"prompt": "a", "count": 2, "seed": 7}, {"prompt": "b", "steps": 5, "seed": 1}]
    drawing = dict(enumerate(map(model.generate, asked)))
    ends: dict[int, Any] = {}
    while drawing:
        for number, pieces in list(drawing.items()):
            piece = next(pieces)
            if "finish" in piece:
                ends[number] = piece
                del drawing[number]
            elif piece == {"picture": 0, "step": 2}:  # asked for at once in the middle of both
                (image,) = model.predict(table(["c"]), None)[0][1]
                assert base64.b64decode(image).decode().endswith(" 3")
    assert drawn(ends[0]) == ["PNG a 64x64 7.5 7 3", "PNG a 64x64 7.5 8 3"]
    assert drawn(ends[1]) == ["PNG b 64x64 7.5 1 5"]
    assert [ends[0]["seed"], ends[1]["seed"]] == [7, 1]
    said = {"prompt": "d", "width": 32, "height": 16, "guidance": 0.0, "seed": 3}
    assert drawn(end_of(model.generate(said))) == ["PNG d 32x16 0.0 3 3"]
    assert end_of(model.generate({"prompt": "e"}))["seed"] >= 0  # one of its own choice, told


def table(texts: list[str], **beside: Any) -> Any:
    given = [(name, np.array(value)) for name, value in {"text": texts, **beside}.items()]
    return model_arranges(given)


def model_arranges(given: list[tuple[str, Any]]) -> Any:
    return DiffusersModel(Pipeline(), {}, {}).arrange(
        [(name, value.astype(object) if name == "text" else value) for name, value in given],
        None,
        strict=False,
    )


def test_a_request_of_tensors_is_drawn_row_by_row(model: DiffusersModel) -> None:
    ((name, images),) = model.predict(table(["a", "b"], steps=[1.0, 2.0], seed=[5.0, 6.0]), ["image"])
    found = [base64.b64decode(image).decode() for image in images]
    assert (name, found) == ("image", ["PNG a 64x64 7.5 5 1", "PNG b 64x64 7.5 6 2"])


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"prompt": " "}, "characters"),
        ({"prompt": "x" * 40_000}, "characters"),
        ({"prompt": "x", "count": 0}, "pictures"),
        ({"prompt": "x", "width": 64}, "both or neither"),
        ({"prompt": "x", "width": 60, "height": 64}, "multiples of 8"),
        ({"prompt": "x", "width": 8192, "height": 8192}, "megapixels"),
        ({"prompt": "x", "steps": 1000}, "steps"),
        ({"prompt": "x", "seed": 1 << 63}, "seed"),
        ({"prompt": "x", "negative": "blur"}, "does not take negative_prompt"),
        ({"prompt": "odd"}, "not that"),
        ({"prompt": "indecent"}, "safety checker"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_the_reason(
    model: DiffusersModel, asked: dict[str, Any], why: str
) -> None:
    with pytest.raises(Invalid, match=why):
        list(model.generate(asked))


def test_work_goes_on_only_while_it_is_asked_for_and_ends_when_it_is_not_wanted() -> None:
    came: list[object] = []
    inside: list[threading.Thread] = []

    def work(pause: Any) -> str:
        inside.append(threading.current_thread())
        for number in range(3):
            came.append(number)
            pause(number)
        return "done"

    assert list(stepwise(work)) == [0, 1, 2, "done"]
    came.clear()
    pieces = stepwise(work)
    assert [next(pieces), next(pieces)] == [0, 1]
    pieces.close()  # type: ignore[attr-defined]
    assert not any(thread.is_alive() for thread in inside)
    assert came == [0, 1]

    def fails(pause: Any) -> None:
        pause("so far")
        raise LookupError("it is gone")

    pieces = stepwise(fails)
    assert next(pieces) == "so far"
    with pytest.raises(LookupError, match="it is gone"):
        next(pieces)


def test_a_pipeline_of_code_or_pickles_is_not_served() -> None:
    flavor = {"diffusers": {"class": "StableDiffusionPipeline"}}
    files = ["model_index.json", "unet/diffusion_pytorch_model.safetensors"]
    plan = Runtimes().plan(flavor, None, files)
    assert plan.runtime == "diffusers"
    assert "diffusers" in plan.requirements
    for kind, paths in (
        ("Evil", files),
        (["pipeline", "Evil"], files),
        ("StableDiffusionPipeline", files[:1]),
    ):
        with pytest.raises(Refused) as refused:
            Runtimes().plan({"diffusers": {"class": kind}}, None, paths)
        assert refused.value.reason == "unservable"
