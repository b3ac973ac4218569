"""The inventory of GPUs: names to types, what the driver says, and what is made up for tests."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from stratal.engines.local.gpus import FakeGpus, NvidiaGpus, inventory, type_of

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-40GB", "a100"),
        ("NVIDIA GH200 480GB", "gh200"),
        ("Tesla T4", "t4"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA GeForce RTX 3080 Ti", "rtx-3080-ti"),
        ("NVIDIA RTX A6000", "rtx-a6000"),
        ("NVIDIA TITAN V", "titan-v"),
        ("", "gpu"),
    ],
)
def test_types_are_what_people_say(name: str, kind: str) -> None:
    assert type_of(name) == kind


def test_made_up_gpus_are_marked_and_named_for_what_they_are() -> None:
    made = inventory("h100:2,a100")
    assert [(gpu.type, gpu.fake) for gpu in made.gpus()] == [("h100", True), ("h100", True), ("a100", True)]
    assert all("fake" in gpu.uuid and "fake" in gpu.name for gpu in made.gpus())
    assert made.devices([made.gpus()[0].uuid]) == []
    with pytest.raises(KeyError):
        made.devices(["GPU-other"])
    for wrong in ("h100:x", "h100:", "H100 2", ",", "h100;a100"):
        with pytest.raises(ValueError, match="names no GPUs"):
            FakeGpus(wrong)


class StubError(Exception):
    pass


def driver(cards: list[dict[str, Any]], *, broken: str = "") -> ModuleType:
    """nvidia-ml-py as it answers for these cards; the library itself needs a driver."""
    module = ModuleType("pynvml")

    def init() -> None:
        if broken:
            raise StubError(broken)

    def mig(card: dict[str, Any]) -> list[int]:
        if "mig" not in card:
            raise StubError("Not Supported")
        return [card["mig"], card["mig"]]

    def busy(card: dict[str, Any]) -> SimpleNamespace:
        if card.get("lost"):
            raise StubError("GPU is lost")
        return SimpleNamespace(gpu=card.get("busy", 0))

    answers: dict[str, Any] = {
        "NVMLError": StubError,
        "nvmlInit": init,
        "nvmlDeviceGetCount": lambda: len(cards),
        "nvmlDeviceGetHandleByIndex": lambda index: cards[index],
        "nvmlDeviceGetMigMode": mig,
        "nvmlDeviceGetName": lambda card: card["name"],
        "nvmlDeviceGetUUID": lambda card: card["uuid"],
        "nvmlDeviceGetMinorNumber": lambda card: card["minor"],
        "nvmlDeviceGetMemoryInfo": lambda card: SimpleNamespace(total=80 << 30, used=card.get("used", 0)),
        "nvmlDeviceGetUtilizationRates": busy,
    }
    for name, answer in answers.items():
        setattr(module, name, answer)
    return module


def test_the_drivers_gpus_come_with_their_device_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = [
        {"name": "NVIDIA H100 80GB HBM3", "uuid": "GPU-1", "minor": 3, "busy": 40, "used": 5, "mig": 0},
        {"name": b"Tesla T4", "uuid": b"GPU-2", "minor": 0, "lost": True},
        {"name": "NVIDIA A100", "uuid": "GPU-3", "minor": 1, "mig": 1},
    ]
    monkeypatch.setitem(sys.modules, "pynvml", driver(cards))
    found = NvidiaGpus()
    assert [(gpu.uuid, gpu.type, gpu.fake) for gpu in found.gpus()] == [
        ("GPU-1", "h100", False),
        ("GPU-2", "t4", False),
    ]
    assert found.devices(["GPU-1"])[0] == "/dev/nvidia3"
    assert found.samples(["GPU-1", "GPU-2"]).keys() == {"GPU-1"}
    assert found.samples(["GPU-1"])["GPU-1"].busy == 0.4
    with pytest.raises(KeyError):
        found.devices(["GPU-3"])


def test_why_there_are_none_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    missing = NvidiaGpus()
    assert missing.gpus() == []
    assert "pip install 'stratal[gpu]'" in missing.why_none
    monkeypatch.setitem(sys.modules, "pynvml", driver([], broken="Driver Not Loaded"))
    asleep = NvidiaGpus()
    assert asleep.gpus() == []
    assert "Driver Not Loaded" in asleep.why_none
    monkeypatch.setitem(sys.modules, "pynvml", driver([]))
    bare = NvidiaGpus()
    assert bare.gpus() == []
    assert "knows of no GPU" in bare.why_none
    parted = [{"name": "NVIDIA A100", "uuid": "GPU-3", "minor": 1, "mig": 1}]
    monkeypatch.setitem(sys.modules, "pynvml", driver(parted))
    cut = NvidiaGpus()
    assert cut.gpus() == []
    assert "MIG" in cut.why_none
