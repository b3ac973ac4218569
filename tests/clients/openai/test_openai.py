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

ROOT = Path(__file__).parents[3]
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


@pytest.fixture(scope="module")
def embedding(server: PlatformServer) -> str:
    """A project with an endpoint ``embedder``."""
    project = server.project()
    server.json("models", "deploy", "embed", "--name", "embedder", "--project", project, timeout=600)
    return project


def test_embeddings_as_numbers_and_bytes_and_errors_as_the_client_knows_them(
    server: PlatformServer, embedding: str, tmp_path: Path
) -> None:
    project = embedding
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
    assert told["images"] == ["BadRequestError", "needs_model", "model"]


def test_a_batch_of_requests_is_answered_by_a_job_from_a_file_into_files(
    server: PlatformServer, embedding: str, tmp_path: Path
) -> None:
    told = run(
        server,
        embedding,
        """
        import time
        body = {"model": "embedder", "input": "hello"}
        lines = [{"custom_id": str(n), "method": "POST", "url": "/v1/embeddings", "body": body} for n in range(30)]
        lines[7]["body"] = {"model": "none", "input": "x"}
        lines[8]["url"] = "/v1/other"
        text = "".join(json.dumps(line) + "\\n" for line in lines)
        given = client.files.create(file=("ask/../in.jsonl", text.encode()), purpose="batch")
        batch = client.batches.create(input_file_id=given.id, endpoint="/v1/embeddings", completion_window="24h",
                                      metadata={"for": "test"})
        while (now := client.batches.retrieve(batch.id)).status in ("validating", "in_progress"):
            time.sleep(0.3)
        good = [json.loads(line) for line in client.files.content(now.output_file_id).text.splitlines()]
        bad = [json.loads(line) for line in client.files.content(now.error_file_id).text.splitlines()]
        listed = client.batches.list().data
        names = [one.filename for one in client.files.list(purpose="batch")]
        gone = client.files.delete(given.id).deleted
        print(json.dumps({
            "name": given.filename, "bytes": given.bytes == len(text), "same": client.files.list().data[0].id != given.id,
            "status": now.status, "counts": now.request_counts.model_dump(), "metadata": now.metadata,
            "ids": sorted(int(one["custom_id"]) for one in good),
            "size": len(good[0]["response"]["body"]["data"][0]["embedding"]),
            "bad": [[one["custom_id"], (one["error"] or one["response"]["body"]["error"])["code"]] for one in bad],
            "listed": [one.id == batch.id for one in listed], "names": names, "gone": gone,
            "none": refused(client.files.retrieve, file_id=given.id),
            "purpose": refused(client.files.create, file=("a", b"x"), purpose="other"),
            "nobatch": refused(client.batches.retrieve, batch_id="batch_none"),
            "wrong": refused(client.batches.create, input_file_id="file-x", endpoint="/v1/x", completion_window="24h"),
            "missing": refused(client.batches.create, input_file_id="file-x", endpoint="/v1/embeddings",
                               completion_window="24h"),
        }))
        """,
        tmp_path,
    )
    assert (told["name"], told["bytes"], told["status"]) == ("in.jsonl", True, "completed")
    assert told["counts"] == {"total": 30, "completed": 28, "failed": 2}
    assert told["ids"] == [n for n in range(30) if n not in (7, 8)]
    assert (told["size"], told["metadata"], told["listed"]) == (384, {"for": "test"}, [True])
    assert told["bad"] == [["7", "model_not_found"], ["8", "invalid_request"]]
    assert (told["names"], told["gone"]) == (["in.jsonl"], True)
    assert told["none"] == ["NotFoundError", "not_found", None]
    assert told["purpose"] == ["BadRequestError", "invalid_value", "purpose"]
    assert told["nobatch"] == ["NotFoundError", "not_found", None]
    assert told["wrong"] == ["BadRequestError", "invalid_value", "endpoint"]
    assert told["missing"] == ["NotFoundError", "not_found", None]


@pytest.mark.soak
def test_a_file_of_chats_becomes_a_classifier_that_moderates(
    server: PlatformServer, embedding: str, tmp_path: Path
) -> None:
    told = run(
        server,
        embedding,
        """
        import itertools, time
        kinds = {"ok": [["I like", "We enjoy", "They praise", "She thanks"],
                        ["the garden", "this song", "your help", "the book"]],
                 "threat": [["I will hurt", "We shall beat", "They want to attack", "He will punch"],
                            ["you", "your friends", "that man", "them all"]]}
        chats = [{"messages": [{"role": "user", "content": f"{a} {b}{c}"}, {"role": "assistant", "content": kind}]}
                 for kind, (first, second) in kinds.items()
                 for a, b, c in itertools.product(first, second, [".", " today.", ", really.", " again."])]
        data = "".join(json.dumps(chat) + "\\n" for chat in chats).encode()
        file = client.files.create(file=("chats.jsonl", data), purpose="fine-tune")
        def done(job):
            while (now := client.fine_tuning.jobs.retrieve(job.id)).status in ("queued", "validating_files", "running"):
                time.sleep(0.5)
            return now
        def failing(data):
            file = client.files.create(file=("one.jsonl", data), purpose="fine-tune")
            return done(client.fine_tuning.jobs.create(training_file=file.id, model="embedder")).error.message
        job = client.fine_tuning.jobs.create(training_file=file.id, model="embedder", suffix="safety")
        now = done(job)
        events = [event.message for event in client.fine_tuning.jobs.list_events(job.id)]
        texts = ["I will attack you.", "Thank you for the book."]
        judged = client.moderations.create(model=now.fine_tuned_model, input=texts)
        print(json.dumps({
            "status": [now.status, now.fine_tuned_model, now.error and now.error.message],
            "events": any(event.startswith("RESULT") for event in events),
            "flagged": [result.flagged for result in judged.results],
            "listed": [one.id == job.id for one in client.fine_tuning.jobs.list()],
            "none": refused(client.fine_tuning.jobs.retrieve, fine_tuning_job_id="ftjob-0"),
            "base": refused(client.fine_tuning.jobs.create, training_file=file.id, model="none"),
            "why": failing(b'{"messages": [{"role": "user", "content": "x"}]}'),
        }))
        """,
        tmp_path,
    )
    assert told["status"] == ["succeeded", "embedder-safety", None]
    assert (told["events"], told["flagged"], told["listed"]) == (True, [True, False], [True])
    assert told["none"] == ["NotFoundError", "not_found", None]
    assert told["base"] == ["NotFoundError", "model_not_found", None]
    assert "it has no message of the assistant" in told["why"]


@pytest.mark.soak
def test_what_is_spoken_is_a_sound_and_what_is_said_is_written_down(
    server: PlatformServer, tmp_path: Path
) -> None:
    project = server.project()
    for task in ("say", "transcribe"):
        server.json("models", "deploy", task, "--name", task, "--project", project, timeout=900)
    sample = ROOT / "src" / "stratal" / "cli" / "catalog" / "samples" / "speech.wav"
    told = run(
        server,
        project,
        f"""
        import io, wave
        sample = {str(sample)!r}
        speech = client.audio.speech
        whole = speech.create(model="say", voice="alloy", input="Good morning.").content
        quick = speech.create(model="say", voice="de", input="Guten Morgen.", speed=2, response_format="pcm").content
        file = wave.open(io.BytesIO(whole))
        heard = client.audio.transcriptions.create(model="transcribe", file=open(sample, "rb"))
        plain = client.audio.transcriptions.create(model="transcribe", file=open(sample, "rb"), response_format="text")
        more = client.audio.transcriptions.create(model="transcribe", file=open(sample, "rb"),
                                                  response_format="verbose_json")
        own = client.audio.transcriptions.create(model="transcribe", file=("a.wav", whole)).text
        print(json.dumps({{
            "seconds": file.getnframes() / file.getframerate(), "quick": len(quick) / 2 / file.getframerate(),
            "heard": heard.text, "plain": plain, "duration": more.duration, "own": own,
            "models": sorted(model.id for model in client.models.list()),
            "voice": refused(speech.create, model="say", voice="xx", input="x"),
            "mp3": refused(speech.create, model="say", voice="alloy", input="x", response_format="mp3"),
            "speaks": refused(speech.create, model="transcribe", voice="alloy", input="x"),
            "sound": refused(client.audio.transcriptions.create, model="transcribe", file=("a.mp3", b"ID3")),
            "times": refused(client.audio.transcriptions.create, model="transcribe", file=("a.wav", whole),
                             response_format="srt"),
            "other": refused(client.audio.translations.create, model="transcribe", file=("a.wav", whole)),
        }}))
        """,
        tmp_path,
    )
    assert 0.5 < told["seconds"] < 3
    assert 0.2 < told["quick"] < told["seconds"]
    assert told["heard"] == told["plain"].strip() == "turn off the radio"
    assert told["duration"] > 0.5
    assert isinstance(told["own"], str)
    assert told["models"] == ["say", "transcribe"]
    assert told["voice"][0] == told["sound"][0] == "BadRequestError"
    assert told["mp3"] == told["times"] == ["BadRequestError", "invalid_value", "response_format"]
    assert told["speaks"] == told["other"] == ["BadRequestError", "invalid_value", "model"]


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
                     num_attention_heads=2, max_position_embeddings=4096, bos_token_id=0, eos_token_id=1,
                     attention_dropout=0.5)
model = LlamaForCausalLM(config)
model.push_to_hub("parrot")
model.save_pretrained("here")
tokenizer.push_to_hub("parrot")

# What comes back is what went up: the same bytes, and the same logits once dropout is off (a new model trains).
from pathlib import Path
from huggingface_hub import hf_hub_download
name = "model.safetensors"
assert Path(hf_hub_download("parrot", name)).read_bytes() == Path("here", name).read_bytes()
back, ids = LlamaForCausalLM.from_pretrained("parrot"), torch.tensor([[5, 6, 7, 8]])
with torch.no_grad():
    assert not torch.equal(model(ids).logits, back(ids).logits)
    assert torch.equal(model.eval()(ids).logits, back(ids).logits)
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
    needs = "llguidance\nnumpy>=2\nsafetensors>=0.4\ntorch==2.13.0\ntransformers>=5\n"
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
        from concurrent.futures import ThreadPoolExecutor
        def several(n):
            pieces = client.chat.completions.create(**say, max_tokens=4 + 5 * n, temperature=0, stream=True)
            return "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
        with ThreadPoolExecutor(6) as side_by_side:
            together = list(side_by_side.map(several, range(6)))
        new = client.responses.create(model="parrot", input="hello", max_output_tokens=24, temperature=0)
        events = list(client.responses.create(
            model="parrot", input=[{"role": "user", "content": "hello"}], max_output_tokens=24, temperature=0, stream=True))
        kind = {"type": "object", "properties": {"unit": {"enum": ["C", "F"]}}, "required": ["unit"],
                "additionalProperties": False}
        tool = {"type": "function", "function": {"name": "weather", "parameters": kind}}
        called = client.chat.completions.create(**say, tools=[tool], tool_choice="required").choices[0]
        form = {"type": "json_schema", "json_schema": {"name": "unit", "schema": kind}}
        after = client.completions.create(model="parrot", prompt="x", max_tokens=3, temperature=0)
        print(json.dumps({
            "together": all(one.startswith(other.rstrip("\\ufffd")) for other, one in zip(together, together[1:])),
            "same": streamed == text, "finish": whole.choices[0].finish_reason,
            "usage": [whole.usage.prompt_tokens, whole.usage.completion_tokens],
            "counted": pieces[-1].usage.completion_tokens,
            "stop": [stopped.finish_reason, stopped.message.content == text[:text.find(stop)]],
            "response": [new.output_text == text, new.status, new.usage.output_tokens],
            "events": ["".join(e.delta for e in events if e.type == "response.output_text.delta") == text,
                       events[0].type, events[-1].type, [e.sequence_number for e in events] == list(range(len(events)))],
            "kept": refused(client.responses.create, model="parrot", input="x", previous_response_id="resp_1"),
            "seeded": seeded[0] == seeded[1], "after": after.usage.completion_tokens,
            "long": refused(client.completions.create, model="parrot", prompt="x" * 5000),
            "calls": called.message.tool_calls[0].function.arguments, "finish_of_call": called.finish_reason,
            "schema": json.loads(client.chat.completions.create(**say, response_format=form).choices[0].message.content),
        }))
        """,
        tmp_path,
    )
    assert (told["same"], told["finish"], told["counted"]) == (True, "length", 24)
    assert told["together"]
    assert told["usage"][1] == 24
    assert told["stop"] == ["stop", True]
    assert told["response"] == [True, "incomplete", 24]
    assert told["events"] == [True, "response.created", "response.incomplete", True]
    assert told["kept"] == ["BadRequestError", "invalid_value", "previous_response_id"]
    assert (told["seeded"], told["after"]) == (True, 3)
    assert told["long"][:1] == ["BadRequestError"]
    assert json.loads(told["calls"])["unit"] in ("C", "F")
    assert (told["finish_of_call"], told["schema"]["unit"] in ("C", "F")) == ("tool_calls", True)
