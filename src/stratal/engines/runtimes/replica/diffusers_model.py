"""Pictures drawn from words by diffusers, from safetensors only and without code of the model's own.

A picture takes many steps, and between any two of them the replica looks after its other requests: the pipeline runs in
a thread that goes on only while a step is asked for (`stepwise`), so a picture that nobody wants any more ends there.
"""

from __future__ import annotations

import base64
import copy
import inspect
import io
import os
import queue
import secrets
import sys
import threading

from .arrays import Invalid
from .model import hash_below
from .task_model import TaskModel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

_ONLY = {"local_files_only": True, "trust_remote_code": False, "use_safetensors": True}
_LONGEST = 32_000
_MOST_PICTURES = 10
_MOST_STEPS = 200
_MOST_PIXELS = 4_194_304
_BESIDE: list[tuple[str, str, Any]] = [
    ("negative", "BYTES", ""),
    ("width", "FP64", 0.0),
    ("height", "FP64", 0.0),
    ("steps", "FP64", 0.0),
    ("guidance", "FP64", -1.0),
    ("seed", "FP64", -1.0),
]
"""What may be said with a text; what the pipeline has of its own stands for the numbers given here."""


def load(plan: dict[str, Any]) -> DiffusersModel:
    """Load the plan's pipeline. Raises what the library raises, and `ImportError` without it."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["DIFFUSERS_OFFLINE"] = "1"
    import diffusers
    import torch
    import transformers

    # Older repositories name the class as transformers called it before its fifth release.
    if not hasattr(transformers, "CLIPFeatureExtractor"):
        transformers.CLIPFeatureExtractor = transformers.CLIPImageProcessor
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    files: dict[str, str] = {}
    hash_below(plan["model"], "", files)
    here = torch.cuda.is_available()
    kind = torch.float32
    if here:
        kind = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    pipeline = diffusers.AutoPipelineForText2Image.from_pretrained(
        plan["model"], dtype=kind, variant=_variant(files), **_ONLY
    ).to("cuda" if here else "cpu")
    pipeline.set_progress_bar_config(disable=True)
    libraries = {
        "python": sys.version.split()[0],
        "diffusers": diffusers.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    return DiffusersModel(pipeline, files, libraries)


def _variant(files: dict[str, str]) -> str | None:
    """Half precision, where the weights are there in no other."""
    weights = [path for path in files if "/" in path and path.endswith(".safetensors")]
    return "fp16" if weights and all(".fp16." in path for path in weights) else None


class DiffusersModel(TaskModel):
    def __init__(self, pipeline: Any, files: dict[str, str], libraries: dict[str, str]) -> None:
        super().__init__(self._drawn, "text", [("image", "BYTES", [-1])], files, libraries, _BESIDE)
        self.rowwise = False
        self._pipeline = pipeline
        self._takes = inspect.signature(pipeline.__call__).parameters
        self._multiple = int(getattr(pipeline, "vae_scale_factor", 8))
        self.interface["task"] = "draw"
        self.interface["draws"] = True

    def generate(self, asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """`asked`: ``prompt``, ``count``, and what may be said beside a text. The end has the ``images``."""
        said = {name: asked.get(name, otherwise) for name, _, otherwise in _BESIDE}
        count = int(asked.get("count", 1))
        if not 1 <= count <= _MOST_PICTURES:
            raise Invalid(f"1 to {_MOST_PICTURES} pictures are drawn at once.")
        given = self._given(str(asked["prompt"]), **said)
        seed = int(said["seed"]) if said["seed"] >= 0 else secrets.randbelow(1 << 32)
        pictures = []
        for number in range(count):
            picture = None
            for step in stepwise(lambda pause: self._draw(given, seed + number, pause)):  # noqa: B023 - used up here
                if isinstance(step, bytes):
                    picture = step
                else:
                    yield {"picture": number, "step": step}
            assert picture is not None
            pictures.append(base64.b64encode(picture).decode())
        yield {"finish": "stop", "images": pictures, "seed": seed}

    def _drawn(self, rows: list[Any]) -> dict[str, Any]:
        names = [name for name, _, _ in _BESIDE]
        found = []
        for text, *said in rows:
            asked = {"prompt": text, **dict(zip(names, said))}  # noqa: B905 - py3.9
            for piece in self.generate(asked):
                found += piece.get("images", [])
        return {"image": found}

    def _given(
        self,
        prompt: str,
        *,
        negative: str,
        width: float,
        height: float,
        steps: float,
        guidance: float,
        seed: float,
    ) -> dict[str, Any]:
        """What the pipeline is called with. Raises `Invalid`."""
        if not prompt.strip() or len(prompt) > _LONGEST:
            raise Invalid(f"A picture is drawn from 1 to {_LONGEST} characters.")
        given: dict[str, Any] = {"prompt": prompt}
        sides = {"width": int(width), "height": int(height)}
        if any(sides.values()):
            if any(side < self._multiple or side % self._multiple for side in sides.values()):
                raise Invalid(f"width and height are multiples of {self._multiple}, both or neither.")
            if sides["width"] * sides["height"] > _MOST_PIXELS:
                raise Invalid(f"A picture has at most {_MOST_PIXELS // 1024**2} megapixels.")
            given |= sides
        if steps:
            if not 1 <= steps <= _MOST_STEPS:
                raise Invalid(f"steps is from 1 to {_MOST_STEPS}.")
            given["num_inference_steps"] = int(steps)
        if guidance >= 0:
            given["guidance_scale"] = float(guidance)
        if negative:
            given["negative_prompt"] = negative
        if seed >= 1 << 63:
            raise Invalid("seed is a number below 2 to the 63rd.")
        unknown = sorted(set(given) - set(self._takes))
        if unknown:
            raise Invalid(f"This model does not take {', '.join(unknown)}.")
        return given

    def _draw(self, given: dict[str, Any], seed: int, pause: Callable[[Any], None]) -> bytes:
        """One picture, a PNG file; `pause` is called with how many steps are done after each."""
        import torch

        more: dict[str, Any] = {}
        if "callback_on_step_end" in self._takes:

            def step(_pipeline: Any, number: int, _time: Any, held: dict[str, Any]) -> dict[str, Any]:
                pause(number + 1)
                return held

            more["callback_on_step_end"] = step
        # A schedule knows how far its picture is, and a pipeline what it was asked: another picture may be half done.
        pipeline = copy.copy(self._pipeline)
        pipeline.scheduler = copy.deepcopy(pipeline.scheduler)
        try:
            told = pipeline(**given, generator=torch.Generator("cpu").manual_seed(seed), **more)
        except ValueError as error:  # how pipelines refuse what they are given
            raise Invalid(f"The model does not draw that: {error}") from None
        if any(getattr(told, "nsfw_content_detected", None) or ()):
            raise Invalid(
                "The model's own safety checker held the picture back; other words or another seed may do."
            )
        out = io.BytesIO()
        told.images[0].save(out, "PNG")
        return out.getvalue()


class _Stopped(BaseException):
    """Raised in a thread whose work nobody wants any more."""


def stepwise(work: Callable[[Callable[[Any], None]], Any]) -> Iterator[Any]:
    """What `work` gives to the function that it is called with, piece by piece, and at last what it returns.

    It runs in a thread of its own, but only while a piece is asked for; once the iterator is closed, its next piece
    raises there.
    """
    told: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()
    go = threading.Semaphore(0)
    stopped = threading.Event()

    def pause(piece: Any) -> None:
        told.put((True, piece))
        go.acquire()
        if stopped.is_set():
            raise _Stopped

    def run() -> None:
        try:
            told.put((True, work(pause)))
            told.put((False, None))
        except BaseException as error:  # raised where it is asked for
            told.put((False, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while True:
            is_piece, piece = told.get()
            if is_piece:
                yield piece
                go.release()
            elif piece is not None:
                raise piece
            else:
                return
    finally:
        stopped.set()
        go.release()
        thread.join()
