"""Fine-tunes a transformer itself by low-rank adapters (peft), holds it against the base model, and registers it.

Run in a job's sandbox, on a GPU where the job has one, else on the CPU. The rows, the held-out fifth of them and the run are
those of `train`. The adapters are merged into the weights, so the new version is served like any model of its kind; they
lie beside, in ``adapter``, as peft keeps them. What is measured is the merged model.
"""

import hashlib
import json
import os
import shutil
import sys
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stratal.engines.finetuning import train  # put in front: see `lora_program`

MOST_TOKENS = 256
BATCH = 16
PATIENCE = 5
_ONLY = {"local_files_only": True, "trust_remote_code": False}


def main(wish: train.Json) -> None:
    first, second = train.read_rows(wish)
    print(f"{len(first)} rows", flush=True)
    held = np.array([train.held_out(text, int(wish["seed"])) for text in first])
    if held.sum() < train.LEAST or (~held).sum() < train.LEAST:
        raise train.CannotTrain(
            f"At least {train.LEAST} rows to train on and {train.LEAST} to hold out are needed."
        )
    base = fetched(wish)
    tuned = Tuning(wish, base, first, second, held)
    metrics = tuned.classify() if wish["aim"] == "classify" else tuned.embed()
    params = {key: wish[key] for key in ("aim", "base", "source", "seed", "epochs", "rate")}
    run = train.track(wish["name"], {**params, "method": "lora", "rows": len(first)}, metrics)
    version = register(wish, tuned.out, metrics, run)
    if wish.get("endpoint"):
        train.deploy(wish, version)
    told = {"model": wish["name"], "version": version, "run": run, "metrics": metrics}
    print("RESULT " + json.dumps(told), flush=True)


def fetched(wish: train.Json) -> Path:
    """The base version's files, by the Hub's client, each with the checksum that the platform knows."""
    import huggingface_hub

    name, version = wish["base"].removeprefix("models:/").rsplit("/", 1)
    repo = f"{os.environ['STRATAL_PROJECT']}/{name}"
    folder = Path(huggingface_hub.snapshot_download(repo, revision=version, local_dir="base"))
    for file in wish["files"]:
        with (folder / file["path"]).open("rb") as opened:
            if hashlib.file_digest(opened, "sha256").hexdigest() != file["sha256"]:
                raise train.CannotTrain(f"{file['path']} of {wish['base']} came with other bytes.")
    return folder


class Tuning:
    """`out` is the folder of the model that came of it."""

    def __init__(
        self, wish: train.Json, base: Path, first: list[str], second: list[str], held: NDArray[np.bool_]
    ) -> None:
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        torch.manual_seed(int(wish["seed"]))
        self._chance = np.random.default_rng(int(wish["seed"]))
        self._wish, self._base = wish, base
        self._first, self._second, self._held = first, second, held
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        print(f"on {torch.cuda.get_device_name() if self._device == 'cuda' else 'the CPU'}", flush=True)
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(base, **_ONLY)
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token or self._tokenizer.unk_token
        self._most = min(int(self._tokenizer.model_max_length or MOST_TOKENS), MOST_TOKENS)
        pooling = base / "1_Pooling" / "config.json"
        self._by_first = pooling.exists() and bool(
            json.loads(pooling.read_text()).get("pooling_mode_cls_token")
        )
        self.out = Path("tuned")

    def classify(self) -> train.Json:
        import torch
        import transformers
        from sklearn.metrics import accuracy_score, f1_score

        classes = sorted(set(self._second))
        if not 2 <= len(classes) <= 1000:
            raise train.CannotTrain(f"There are {len(classes)} classes; 2 to 1,000 are told apart.")
        answers = np.array([classes.index(label) for label in self._second])
        counts = np.bincount(answers[~self._held], minlength=len(classes))
        if counts.min() < 3:
            raise train.CannotTrain(
                f"The class {classes[int(counts.argmin())]!r} has fewer than 3 rows to train on."
            )
        names = dict(enumerate(classes))
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            self._base, num_labels=len(classes), id2label=names, label2id={v: k for k, v in names.items()},
            ignore_mismatched_sizes=True, use_safetensors=True, **_ONLY,
        ).to(self._device)  # fmt: skip
        model.config.pad_token_id = self._tokenizer.pad_token_id
        model.config.problem_type = "single_label_classification"
        vectors = self._vectors(model.base_model, self._first)
        # The base, untrained: the class whose texts' mean embedding lies nearest.
        means = np.stack(
            [vectors[~self._held & (answers == number)].mean(0) for number in range(len(classes))]
        )
        means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
        near = (vectors[self._held] @ means.T).argmax(1)

        def told(tuned: Any, rows: NDArray[np.int_]) -> NDArray[np.float64]:
            found = [
                tuned(**self._given([self._first[i] for i in some])).logits.float().cpu().numpy()
                for some in _batches(rows)
            ]
            return np.concatenate(found).astype(np.float64)

        def loss(tuned: Any, rows: NDArray[np.int_]) -> Any:
            wanted = torch.tensor(answers[rows], device=self._device)
            given = self._given([self._first[i] for i in rows])
            return torch.nn.functional.cross_entropy(tuned(**given).logits.float(), wanted)

        def mark(tuned: Any, rows: NDArray[np.int_]) -> float:
            scores = told(tuned, rows)
            scores -= scores.max(1, keepdims=True)
            likely = scores[np.arange(len(rows)), answers[rows]] - np.log(np.exp(scores).sum(1))
            return float(likely.mean())

        merged = self._tune(model, "SEQ_CLS", loss, mark)
        with torch.inference_mode():
            found = told(merged, np.flatnonzero(self._held)).argmax(1)
        metrics: train.Json = {"held_out_rows": int(self._held.sum())}
        commonest = np.full(len(found), counts.argmax())
        for name, one in (("", found), ("base_", near), ("commonest_", commonest)):
            metrics[f"{name}accuracy"] = float(accuracy_score(answers[self._held], one))
            metrics[f"{name}macro_f1"] = float(
                f1_score(answers[self._held], one, average="macro", zero_division=0.0)
            )
        return metrics

    def embed(self) -> train.Json:
        import torch
        import transformers

        model = transformers.AutoModel.from_pretrained(self._base, use_safetensors=True, **_ONLY)
        model = model.to(self._device)
        before = [self._vectors(model, texts) for texts in (self._first, self._second)]

        def both(tuned: Any, rows: NDArray[np.int_]) -> tuple[Any, Any]:
            u, v = (self._pooled(tuned, [texts[i] for i in rows]) for texts in (self._first, self._second))
            return torch.nn.functional.normalize(u, dim=1), torch.nn.functional.normalize(v, dim=1)

        def loss(tuned: Any, rows: NDArray[np.int_]) -> Any:
            u, v = both(tuned, rows)
            scores = u @ v.T / 0.05
            wanted = torch.arange(len(rows), device=self._device)
            entropy = torch.nn.functional.cross_entropy
            return (entropy(scores, wanted) + entropy(scores.T, wanted)) / 2

        def mark(tuned: Any, rows: NDArray[np.int_]) -> float:
            found = [both(tuned, some) for some in _batches(rows)]
            u, v = (np.concatenate([one[side].float().cpu().numpy() for one in found]) for side in (0, 1))
            return float(train.retrieval(u, v)["mrr"])

        merged = self._tune(model, "FEATURE_EXTRACTION", loss, mark)
        after = [self._vectors(merged, texts) for texts in (self._first, self._second)]
        metrics: train.Json = {"held_out_rows": int(self._held.sum())}
        metrics |= train.retrieval(after[0][self._held], after[1][self._held])
        base = train.retrieval(before[0][self._held], before[1][self._held])
        return metrics | {f"base_{name}": value for name, value in base.items()}

    def _tune(
        self,
        model: Any,
        kind: str,
        loss: Callable[[Any, NDArray[np.int_]], Any],
        mark: Callable[[Any, NDArray[np.int_]], float],
    ) -> Any:
        """Train adapters until a seventh of the training rows, never fitted, says that it gets no better; merge, save."""
        import peft
        import torch

        config = peft.LoraConfig(
            task_type=kind, r=8, lora_alpha=16, lora_dropout=0.05, target_modules="all-linear"
        )
        tuned = peft.get_peft_model(model, config)
        rows = np.flatnonzero(~self._held)
        inner = self._chance.random(len(rows)) < 1 / 7
        looked = rows[inner] if inner.sum() >= 5 else rows
        rows = rows[~inner] if inner.sum() >= 5 else rows
        moving = [one for one in tuned.parameters() if one.requires_grad]
        print(f"{sum(one.numel() for one in moving)} numbers are trained", flush=True)
        steps = torch.optim.AdamW(moving, lr=float(self._wish["rate"]), weight_decay=0.01)
        tuned.eval()
        with torch.inference_mode():
            best = mark(tuned, looked)  # adapters that are no better than none are not kept
        kept, patience = _state(tuned), 0
        for epoch in range(int(self._wish["epochs"])):
            tuned.train()
            self._chance.shuffle(rows)
            for some in _batches(rows):
                if len(some) < 2:
                    continue
                steps.zero_grad()
                loss(tuned, some).backward()
                torch.nn.utils.clip_grad_norm_(moving, 1.0)
                steps.step()
            tuned.eval()
            with torch.inference_mode():
                seen = mark(tuned, looked)
            print(f"epoch {epoch + 1}: {seen:.4f}", flush=True)
            if seen > best + 1e-4:
                best, kept, patience = seen, _state(tuned), 0
            else:
                patience += 1
                if patience == PATIENCE:
                    break
        tuned.load_state_dict(kept, strict=False)
        tuned.eval()
        tuned.save_pretrained(self.out / "adapter")
        (self.out / "adapter" / "README.md").unlink(missing_ok=True)
        merged = tuned.merge_and_unload()
        merged.save_pretrained(self.out)
        self._tokenizer.save_pretrained(self.out)
        self._describe(embeds=kind == "FEATURE_EXTRACTION")
        return merged

    def _describe(self, *, embeds: bool) -> None:
        """How embeddings are pooled, as the base says it; sentence-transformers' files tell the runtime."""
        if not embeds:
            return
        for name in ("1_Pooling", "modules.json", "sentence_bert_config.json"):
            place = self._base / name
            if place.is_dir():
                shutil.copytree(place, self.out / name, dirs_exist_ok=True)
            elif place.exists():
                shutil.copy(place, self.out / name)
        if not (self.out / "modules.json").exists():
            normal = {
                "idx": 2,
                "name": "2",
                "path": "2_Normalize",
                "type": "sentence_transformers.models.Normalize",
            }
            (self.out / "modules.json").write_text(json.dumps([normal]))

    def _given(self, texts: list[str]) -> Any:
        given = self._tokenizer(
            texts, padding=True, truncation=True, max_length=self._most, return_tensors="pt"
        )
        return given.to(self._device)

    def _pooled(self, model: Any, texts: list[str]) -> Any:
        given = self._given(texts)
        hidden = model(**given).last_hidden_state
        if self._by_first:
            return hidden[:, 0]
        weights = given["attention_mask"][:, :, None].to(hidden.dtype)
        return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)

    def _vectors(self, model: Any, texts: list[str]) -> NDArray[np.float64]:
        import torch

        model.eval()
        with torch.inference_mode():
            found = [
                self._pooled(model, [texts[i] for i in some]).float().cpu().numpy()
                for some in _batches(np.arange(len(texts)))
            ]
        vectors = np.concatenate(found).astype(np.float64)
        scaled: NDArray[np.float64] = vectors / np.maximum(
            np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12
        )
        return scaled


def _batches(rows: NDArray[np.int_]) -> Iterator[NDArray[np.int_]]:
    for start in range(0, len(rows), BATCH):
        yield rows[start : start + BATCH]


def _state(tuned: Any) -> dict[str, Any]:
    """What is trained, as it is now."""
    moving = {name for name, one in tuned.named_parameters() if one.requires_grad}
    return {name: one.detach().clone() for name, one in tuned.state_dict().items() if name in moving}


def register(wish: train.Json, folder: Path, metrics: train.Json, run: str) -> int:
    """The folder as the model's next version, by the Hub's client."""
    import huggingface_hub

    told = "\n".join(f"- {key}: {value:g}" for key, value in metrics.items())
    card = (
        f"# {wish['name']}\n\n{wish['base']} with low-rank adapters, merged, from {wish['source']} (run {run}).\n\n"
        f"On held-out rows:\n{told}\n"
    )
    (folder / "README.md").write_text(card)
    packages = Path("base") / "requirements.txt"
    (folder / "requirements.txt").write_text(packages.read_text() if packages.exists() else wish["packages"])
    repo = f"{os.environ['STRATAL_PROJECT']}/{wish['name']}"
    client = huggingface_hub.HfApi()
    client.create_repo(repo, exist_ok=True)
    client.upload_folder(
        repo_id=repo,
        folder_path=folder,
        delete_patterns="*",
        commit_message=f"Fine-tuned from {wish['base']}",
        commit_description=f"Run {run}.",
    )
    project, name = (urllib.parse.quote(one, safe="") for one in repo.split("/", 1))
    found = json.loads(train.ask("GET", f"/api/v1/projects/{project}/models/{name}"))
    return int(found["versions"][0]["version"])


if __name__ == "__main__":
    try:
        main(json.loads(sys.argv[1]))
    except train.CannotTrain as error:
        sys.exit(str(error))
