"""Text models in the ONNX format with their tokenizer, uploaded by the Hub's client and served without PyTorch.

The graphs are tiny and known: a row of numbers a token, summed or told one by one, so the answers can be told beforehand.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from platform_server import PlatformServer

UPLOAD = """
import sys
from huggingface_hub import HfApi
for name in sys.argv[1:]:
    HfApi().create_repo(name)
    HfApi().upload_folder(repo_id=name, folder_path=name)
"""
WORDS = ["[PAD]", "[UNK]", "good", "fine", "bad", "late", "the", "parcel", "was"]
ROWS = np.random.default_rng(0).standard_normal((len(WORDS), 3)).astype(np.float32)
ROWS[2:4], ROWS[4:6], ROWS[6:] = [0, 0, 3], [3, 0, 0], 0.01


def save(folder: Path, architecture: str, *, classes: list[str] | None) -> None:
    """A graph that looks each token up in `ROWS`; for classes it sums those that the mask lets through."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    tokens = [
        helper.make_tensor_value_info(n, TensorProto.INT64, ["b", "n"])
        for n in ("input_ids", "attention_mask")
    ]
    nodes = [helper.make_node("Gather", ["rows", "input_ids"], ["looked"])]
    given = [numpy_helper.from_array(ROWS, "rows")]
    if classes:
        given.append(numpy_helper.from_array(np.array([1]), "along"))
        given.append(numpy_helper.from_array(np.array([2]), "deep"))
        nodes += [
            helper.make_node("Cast", ["attention_mask"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["floats", "deep"], ["column"]),
            helper.make_node("Mul", ["looked", "column"], ["kept"]),
            helper.make_node("ReduceSum", ["kept", "along"], ["logits"], keepdims=0),
        ]
        told = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", 3])
    else:
        nodes.append(helper.make_node("Identity", ["looked"], ["last_hidden_state"]))
        told = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["b", "n", 3])
    graph = helper.make_graph(nodes, "tiny", tokens, [told], given)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (folder / "onnx").mkdir(parents=True)
    onnx.save(made, folder / "onnx" / "model.onnx")
    tokenizer = {
        "version": "1.0",
        "pre_tokenizer": {"type": "Whitespace"},
        "normalizer": {"type": "Lowercase"},
        "model": {
            "type": "WordLevel",
            "vocab": {word: number for number, word in enumerate(WORDS)},
            "unk_token": "[UNK]",
        },
        "added_tokens": [],
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    config: dict[str, Any] = {"model_type": "bert", "architectures": [architecture]}
    if classes:
        config["id2label"] = dict(enumerate(classes))
    else:
        normal = {
            "idx": 2,
            "name": "2",
            "path": "2_Normalize",
            "type": "sentence_transformers.models.Normalize",
        }
        (folder / "modules.json").write_text(json.dumps([normal]))
    (folder / "config.json").write_text(json.dumps(config))


def summed(text: str) -> NDArray[np.float32]:
    found: NDArray[np.float32] = ROWS[
        [WORDS.index(word) if word in WORDS else 1 for word in text.split()]
    ].sum(0)
    return found


@pytest.mark.soak
def test_classes_and_embeddings_are_told_by_onnx_runtime_alone(
    server: PlatformServer, tmp_path: Path
) -> None:
    project = server.project()
    save(tmp_path / "mood", "BertForSequenceClassification", classes=["cross", "plain", "glad"])
    save(tmp_path / "near", "BertModel", classes=None)
    env = {**server.environ(), **server.env(project), "HF_HOME": str(tmp_path / "cache")}
    upload = [sys.executable, "-W", "ignore", "-c", UPLOAD, "mood", "near"]
    subprocess.run(upload, env={**os.environ, **env}, cwd=tmp_path, check=True)
    for name in ("mood", "near"):
        made = server.json("deploy", f"models:/{name}/1", "--name", name, "--project", project, timeout=900)
        assert made["runtime"] == "onnxtext"
        assert "torch" not in made["active"]["libraries"]
    texts = ["the parcel was late", "good", "the parcel was fine unseen", "bad bad bad the parcel was late"]
    with server.http() as http:
        key = {"Authorization": "Bearer " + server.env(project)["OPENAI_API_KEY"]}
        address = f"/api/v1/projects/{project}/endpoints/mood/invocations"
        told = http.post(address, json={"inputs": {"text": texts}}).json()["predictions"]
        assert [one["label"] for one in told] == ["cross", "glad", "glad", "cross"]
        powers = np.exp(np.stack([summed(text) for text in texts]).astype(np.float64))
        wanted = powers / powers.sum(1, keepdims=True)
        assert np.allclose([one["probabilities"] for one in told], wanted, atol=1e-5)
        asked = http.post("/v1/embeddings", headers=key, json={"model": "near", "input": texts}).json()
        vectors = np.array([one["embedding"] for one in asked["data"]])
        means = np.stack([summed(text) / len(text.split()) for text in texts])
        assert np.allclose(vectors, means / np.linalg.norm(means, axis=1, keepdims=True), atol=1e-5)
        assert asked["usage"]["prompt_tokens"] == sum(len(text.split()) for text in texts)
        judged = http.post("/v1/moderations", headers=key, json={"model": "mood", "input": "bad"}).json()
        assert max(judged["results"][0]["category_scores"].items(), key=lambda one: one[1])[0] == "cross"
