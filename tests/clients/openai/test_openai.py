"""The unmodified openai client, given the variables of `stratal env` and nothing else."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from platform_server import PlatformServer

PREAMBLE = """
import json, os
import openai
client = openai.OpenAI(max_retries=0)

def refused(call, **named):
    try:
        call(**named)
    except openai.APIStatusError as error:
        return [type(error).__name__, error.code, error.param]
"""


def run(server: PlatformServer, project: str, text: str, folder: Path) -> Any:
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PREAMBLE + textwrap.dedent(text)],
        env={**kept, **server.env(project), "HOME": str(folder)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def test_embeddings_as_numbers_and_bytes_and_errors_as_the_client_knows_them(
    server: PlatformServer, tmp_path: Path
) -> None:
    project = server.project()
    server.json("models", "deploy", "embed", "--name", "embedder", "--project", project, timeout=600)
    told = run(
        server,
        project,
        """
        import array, base64
        texts = ["The doctor wrote a prescription.", "A physician prescribed a medicine.", "The roof is new."]
        numbers = client.embeddings.create(model="embedder", input=texts)
        packed = client.embeddings.create(model="embedder", input=texts, encoding_format="base64")
        vectors = [one.embedding for one in numbers.data]
        near = [sum(a * b for a, b in zip(vectors[0], other)) for other in vectors]
        raw = array.array("f", base64.b64decode(packed.data[1].embedding))
        print(json.dumps({
            "models": [model.id for model in client.models.list()],
            "one": client.models.retrieve("embedder").id,
            "near": near, "same": max(abs(a - b) for a, b in zip(raw, vectors[1])),
            "tokens": numbers.usage.prompt_tokens, "sizes": [len(vector) for vector in vectors],
            "none": refused(client.embeddings.create, model="none", input="x"),
            "chat": refused(client.chat.completions.create, model="embedder", messages=[{"role": "user", "content": "x"}]),
            "cut": refused(client.embeddings.create, model="embedder", input="x", dimensions=8),
            "key": refused(openai.OpenAI(api_key="sk-none", max_retries=0).models.list),
            "images": refused(client.images.generate, prompt="x"),
        }))
        """,
        tmp_path,
    )
    assert (told["models"], told["one"], told["sizes"]) == (["embedder"], "embedder", [384] * 3)
    assert told["near"][1] > 0.6 > 0.3 > told["near"][2]
    assert told["same"] < 1e-6
    assert told["tokens"] > 20
    assert told["none"] == ["NotFoundError", "model_not_found", None]
    assert told["chat"] == ["BadRequestError", "not_generating", None]
    assert told["cut"] == ["BadRequestError", "invalid_value", "dimensions"]
    assert told["key"] == ["AuthenticationError", "invalid_api_key", None]
    assert told["images"][0] == "InternalServerError"


MAKE = """
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

letters = sorted(pre_tokenizers.ByteLevel.alphabet())
words = {token: number for number, token in enumerate(["<s>", "</s>", *letters])}
inner = Tokenizer(models.BPE(vocab=words, merges=[]))
inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")
tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\\n{% endfor %}"
torch.manual_seed(0)
config = LlamaConfig(vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                     num_attention_heads=2, max_position_embeddings=4096, bos_token_id=0, eos_token_id=1)
LlamaForCausalLM(config).push_to_hub("parrot")
tokenizer.push_to_hub("parrot")
"""


@pytest.mark.soak
def test_a_language_model_goes_from_a_job_through_the_hub_to_a_stream_that_stops(
    server: PlatformServer, tmp_path: Path
) -> None:
    """Its weights are random and made here: what is told is nonsense, how it is told is not."""
    project = server.project()
    work = tmp_path / "work"
    work.mkdir()
    (work / "make.py").write_text(MAKE)
    needs = "numpy>=2\nsafetensors>=0.4\ntorch>=2.4\ntransformers>=5\n"
    (work / "requirements.txt").write_text(needs)
    server.cli(
        "run",
        "--requirements",
        "requirements.txt",
        "--project",
        project,
        "--",
        "python",
        "make.py",
        timeout=1800,
        PWD=str(work),
    )
    server.cli("deploy", "models:/parrot/2", "--name", "parrot", "--project", project, timeout=1800)
    told = run(
        server,
        project,
        """
        say = dict(model="parrot", messages=[{"role": "user", "content": "hello"}])
        whole = client.chat.completions.create(**say, max_tokens=24, temperature=0)
        text = whole.choices[0].message.content
        pieces = list(client.chat.completions.create(
            **say, max_tokens=24, temperature=0, stream=True, stream_options={"include_usage": True}))
        streamed = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
        stop = text[8:10]
        stopped = client.chat.completions.create(**say, max_tokens=24, temperature=0, stop=[stop]).choices[0]
        seeded = [client.chat.completions.create(**say, max_tokens=12, seed=7).choices[0].message.content for _ in "ab"]
        for _ in range(3):
            endless = client.chat.completions.create(**say, max_tokens=4000, stream=True)
            next(iter(endless))
            endless.close()
        after = client.completions.create(model="parrot", prompt="x", max_tokens=3, temperature=0)
        print(json.dumps({
            "same": streamed == text, "finish": whole.choices[0].finish_reason,
            "usage": [whole.usage.prompt_tokens, whole.usage.completion_tokens],
            "counted": pieces[-1].usage.completion_tokens,
            "stop": [stopped.finish_reason, stopped.message.content == text[:text.find(stop)]],
            "seeded": seeded[0] == seeded[1], "after": after.usage.completion_tokens,
            "long": refused(client.completions.create, model="parrot", prompt="x" * 5000),
            "tools": refused(client.chat.completions.create, **say, tools=[{"type": "function", "function": {"name": "f"}}]),
        }))
        """,
        tmp_path,
    )
    assert (told["same"], told["finish"], told["counted"]) == (True, "length", 24)
    assert told["usage"][1] == 24
    assert told["stop"] == ["stop", True]
    assert (told["seeded"], told["after"]) == (True, 3)
    assert told["long"][:1] == ["BadRequestError"]
    assert told["tools"] == ["BadRequestError", "invalid_value", "tools"]
