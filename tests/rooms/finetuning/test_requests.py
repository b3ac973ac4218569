"""What is asked to be fine-tuned, how, and by which program."""

import ast
import json
from base64 import b64encode
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from stratal.ai.finetuning.service import Method, _method
from stratal.ai.models.model import ModelVersion
from stratal.engines.finetuning import LORA_REQUIREMENTS, LORA_SERVED, lora_program, program
from stratal.gateway.openai.finetuning import _hyperparameters
from stratal.kernel.errors import Invalid
from wired import Wired


@pytest.fixture(scope="module")
def wired(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wired]:
    running = Wired(tmp_path_factory.mktemp("finetunes") / "home")
    yield running
    running.close()


def base(flavors: dict[str, Any], *paths: str) -> ModelVersion:
    files = [SimpleNamespace(path=path) for path in paths]
    made = SimpleNamespace(uri="models:/b/1", facts=SimpleNamespace(flavors=flavors), files=files)
    return cast("ModelVersion", made)


ENCODER = base({"stratal": {"implementation": "minilm"}}, "config.json", "model.safetensors", "stratal.json")
BERT = base({"transformers": {"model_type": "bert"}}, "config.json", "model.safetensors")


@pytest.mark.fast
@pytest.mark.parametrize(
    ("model", "asked", "has_gpu", "method"),
    [
        (ENCODER, None, False, Method.HEAD),
        (ENCODER, None, True, Method.LORA),
        (ENCODER, Method.LORA, False, Method.LORA),
        (ENCODER, Method.HEAD, True, Method.HEAD),
        (BERT, None, False, Method.LORA),
        (BERT, Method.HEAD, True, "not_an_encoder"),
        (base({"transformers": {"auto_map": {"a": "b"}}}, "config.json", "m.safetensors"), None, True, "not_a_transformer"),
        (base({"transformers": {"model_type": "bert"}}, "config.json", "m.bin"), None, True, "not_a_transformer"),
        (base({"sklearn": {}}, "MLmodel", "model.pkl"), None, True, "not_a_transformer"),
    ],
)  # fmt: skip
def test_adapters_are_the_default_where_there_is_a_gpu_or_no_head(
    model: ModelVersion, asked: Method | None, has_gpu: bool, method: Method | str
) -> None:
    if isinstance(method, Method):
        assert _method(model, asked, has_gpu=has_gpu) is method
        return
    with pytest.raises(Invalid) as refused:
        _method(model, asked, has_gpu=has_gpu)
    assert refused.value.reason == method


@pytest.mark.fast
def test_the_program_of_adapters_is_whole_and_what_it_shares_is_put_in_front() -> None:
    text = lora_program()
    tree = ast.parse(text)
    assert "from stratal" not in text
    assert repr(program()) in text
    assert {"main", "register", "fetched"} <= {
        n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)
    }
    assert len(text) < 100_000  # it is one argument of a command
    assert LORA_REQUIREMENTS.startswith(LORA_SERVED)


def test_a_request_becomes_a_job_with_what_it_needs(wired: Wired) -> None:
    wired.project("tuning")
    key, viewer = wired.key("tuning", "editor"), wired.key("tuning", "viewer")
    wired.ask("POST", "/hub/api/repos/create", key, json={"name": "tiny"})
    lines: list[dict[str, Any]] = [{"key": "header", "value": {"summary": "first"}}]
    config = {"model_type": "bert", "architectures": ["BertModel"]}
    for path, data in {"config.json": json.dumps(config).encode(), "model.safetensors": b"abc"}.items():
        lines.append(
            {
                "key": "file",
                "value": {"path": path, "content": b64encode(data).decode(), "encoding": "base64"},
            }
        )
    body = b"\n".join(json.dumps(line).encode() for line in lines)
    assert wired.ask("POST", "/hub/api/models/tuning/tiny/commit/main", key, body=body).status == 200
    here = "/api/v1/projects/tuning"
    wired.ask("POST", f"{here}/buckets", key, json={"name": "tuning-rows"})
    wired.ask("PUT", f"{here}/buckets/tuning-rows/object?key=a.jsonl", key, body=b"{}")
    wish = {"aim": "classify", "name": "mood", "source": "s3://tuning-rows/a.jsonl", "base": "models:/tiny/1"}
    made = wired.ask("POST", f"{here}/finetunes", key, json={**wish, "epochs": 3})
    assert made.status == 201, made.json()
    job = wired.ask("GET", f"{here}/jobs/{made.json()['job']}", key).json()
    assert job["name"] == "finetune-mood"
    assert job["gpus"] == 0
    said = json.loads(job["argv"][3])
    assert (said["method"], said["epochs"], said["base"]) == ("lora", 3, "models:/tiny/1")
    assert {file["path"] for file in said["files"]} == {"config.json", "model.safetensors"}
    for wrong, status in (
        ({"method": "head"}, 400),
        ({"method": "full"}, 400),
        ({"epochs": 0}, 400),
        ({"rate": 0}, 400),
        ({"name": "tiny"}, 400),
        ({"source": "s3://tuning-rows/none"}, 404),
        ({"base": "models:/none/1"}, 404),
    ):
        assert wired.ask("POST", f"{here}/finetunes", key, json={**wish, **wrong}).status == status, wrong
    assert wired.ask("POST", f"{here}/finetunes", viewer, json=wish).status == 403


@pytest.mark.fast
@pytest.mark.parametrize(
    "wrong",
    [
        {"method": {"type": "dpo"}},
        {"hyperparameters": {"batch_size": 8}},
        {"hyperparameters": {"n_epochs": 0}},
        {"hyperparameters": {"n_epochs": True}},
        {"hyperparameters": {"learning_rate_multiplier": 0}},
        {"hyperparameters": [1]},
    ],
)
def test_hyperparameters_of_openais_clients_are_taken_or_refused(wrong: dict[str, Any]) -> None:
    assert _hyperparameters({}) == (5, 5e-4)
    said = {"n_epochs": 7, "learning_rate_multiplier": 2, "batch_size": "auto"}
    assert _hyperparameters({"hyperparameters": said}) == (7, 1e-3)
    assert _hyperparameters({"method": {"type": "supervised", "supervised": {"hyperparameters": said}}}) == (
        7,
        1e-3,
    )
    with pytest.raises(Invalid):
        _hyperparameters(wrong)
