"""How well an index of this documentation finds and quotes what answers 125 questions, and what it makes of 36 others.

Needs a running platform with the embedder (``stratal models deploy embed``) and its variables (``eval "$(stratal env)"``).
Puts `docs` into a bucket, makes an index of it, asks each question of ``retrieval.jsonl``, and removes both; a bucket that
an earlier run left is used again. The questions were written from reading the pages, to choose weights by; the chatbot
(docs/solutions.md) is judged by others. A passage answers when it holds one of the question's words of evidence; there may
be others that answer as well, so the figures compare ways of searching and are no more.
"""

import json
import time
from pathlib import Path
from typing import Any

from stratal.sdk import Client

HERE = Path(__file__).parent
NAME = "bench-retrieval"


def main() -> None:
    client = Client()
    asked = [json.loads(line) for line in (HERE / "retrieval.jsonl").read_text().splitlines()]
    make(client)
    places, words, quoted, declined = [], [], [], 0
    for one in asked:
        found = client.post(client.path(f"/indexes/{NAME}/search"), {"query": one["question"], "limit": 50})
        if not one["evidence"]:
            declined += found["threshold"] is not None and found["confidence"] < found["threshold"]
            continue
        passages = found["passages"]
        places.append(place(passages, one["evidence"]))
        words.append(place(sorted(passages, key=lambda p: -p["words"]), one["evidence"]))
        told = client.post(client.path(f"/indexes/{NAME}/ask"), {"question": one["question"]})
        if told["citations"]:
            quoted.append(place(told["citations"], one["evidence"]) == 1)
    for label, found_at in (("as the index ranks", places), ("its first fifty by words", words)):
        first, five = (sum(at <= depth for at in found_at) / len(found_at) for depth in (1, 5))
        print(f"{label}: first {first:.2f}, among five {five:.2f}, mean reciprocal rank {mrr(found_at):.2f}")
    print(f"answered {len(quoted)} of {len(places)}, of these {sum(quoted) / len(quoted):.2f} cite it first")
    print(f"declined {declined} of {len(asked) - len(places)} that these pages do not answer")
    client.delete(client.path(f"/indexes/{NAME}"))
    clear(client)


def make(client: Client) -> None:
    if all(bucket["name"] != NAME for bucket in client.get(client.path("/buckets"))["buckets"]):
        client.post(client.path("/buckets"), {"name": NAME})
    for page in sorted((HERE.parent / "docs").glob("*.md")):
        client.request(
            "PUT",
            client.path(f"/buckets/{NAME}/object"),
            params={"key": page.name},
            content=page.read_bytes(),
        )
    # As `stratal index create` does: the embedder must be there.
    path = client.path(f"/indexes/{NAME}")
    made = client.request("PUT", path, json={"source": f"s3://{NAME}/**"})
    while made["state"] == "building":
        time.sleep(1)
        made = client.get(path)
    print(f"{made['state']}: {made['passages']} passages of {made['documents']} documents")


def clear(client: Client) -> None:
    for page in (HERE.parent / "docs").glob("*.md"):
        client.request("DELETE", client.path(f"/buckets/{NAME}/object"), params={"key": page.name})
    client.delete(client.path(f"/buckets/{NAME}"))


def place(passages: list[dict[str, Any]], evidence: list[str]) -> int:
    """Of the first that holds one of the words; 1000 when none does."""
    plain = (" ".join(one["text"].split()) for one in passages)
    return next((n for n, text in enumerate(plain, 1) if any(e in text for e in evidence)), 1000)


def mrr(places: list[int]) -> float:
    return sum(1 / at for at in places) / len(places)


main()
