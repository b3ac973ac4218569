"""The GPUs of this machine, through NVIDIA's management library, or made up for tests.

nvidia-ml-py (extra ``stratal[gpu]``) is imported when they are first asked for, and asks the driver; it
starts no context on the device and takes none of its memory. Where it or the driver is missing there are
no GPUs, and `why_none` says so. A GPU that is cut into parts (MIG) is not handed out: only whole ones are.
"""

import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from stratal.compute.engine import Gpu, GpuSample

log = logging.getLogger("stratal.engines")

_AGAIN_SECONDS = 60.0
_SHARED_NODES = ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset")
_USUAL_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")


class Inventory(Protocol):
    """What there is, and what it is doing. Every method may ask a driver: call them off the event loop."""

    @property
    def why_none(self) -> str:
        """Why there are no GPUs; "" when there are, or when it was not looked yet."""
        ...

    def gpus(self) -> Sequence[Gpu]: ...

    def samples(self, uuids: Sequence[str]) -> Mapping[str, GpuSample]: ...

    def devices(self, uuids: Sequence[str]) -> Sequence[str]:
        """The device nodes that a workload with these GPUs needs. Raises `KeyError` for one that is not here."""
        ...

    def libraries(self) -> str | None:
        """The folder of the driver's libraries, where the system does not look by itself."""
        ...


def inventory(fake: str = "") -> Inventory:
    """The machine's GPUs, or made-up ones: ``h100:2,a100:1``. Raises `ValueError` when that makes no sense."""
    return FakeGpus(fake) if fake else NvidiaGpus()


def type_of(name: str) -> str:
    """``NVIDIA H100 80GB HBM3`` → ``h100``, ``NVIDIA GeForce RTX 4090`` → ``rtx-4090``: what people ask for."""
    words = [
        word
        for word in re.split(r"[^a-z0-9]+", name.lower())
        if word not in {"nvidia", "tesla", "geforce", "quadro", ""}
    ]
    taken: list[str] = []
    for index, word in enumerate(words):
        taken.append(word)
        if any(letter.isdigit() for letter in word):
            taken += [w for w in words[index + 1 : index + 2] if w in {"ti", "super"}]
            break
    return "-".join(taken) or "gpu"


class FakeGpus:
    """Made-up GPUs, marked as such: they can be assigned and counted, and compute nothing."""

    why_none = ""

    def __init__(self, wanted: str) -> None:
        self._gpus: list[Gpu] = []
        for part in wanted.split(","):
            match = re.fullmatch(r"\s*([a-z0-9-]{1,40})(?::(\d{1,3}))?\s*", part)
            if match is None:
                raise ValueError(f"{part!r} names no GPUs; say for example h100:2,a100:1")
            kind = match[1]
            for _ in range(int(match[2] or 1)):
                uuid = f"GPU-fake-{kind}-{len(self._gpus)}"
                self._gpus.append(Gpu(uuid, kind, f"fake {kind}", 80 * 2**30, fake=True))

    def gpus(self) -> Sequence[Gpu]:
        return self._gpus

    def samples(self, uuids: Sequence[str]) -> Mapping[str, GpuSample]:
        return {}

    def devices(self, uuids: Sequence[str]) -> Sequence[str]:
        known = {gpu.uuid for gpu in self._gpus}
        for uuid in uuids:
            if uuid not in known:
                raise KeyError(uuid)
        return []

    def libraries(self) -> str | None:
        return None


@dataclass(frozen=True, slots=True)
class _Device:
    gpu: Gpu
    handle: Any
    minor: int


class NvidiaGpus:
    """Asks the driver once a minute at most what there is; what it is doing, each time."""

    def __init__(self) -> None:
        self.why_none = ""
        self._nvml: Any = None
        self._devices: dict[str, _Device] = {}
        self._looked_at: float | None = None
        self._libraries: str | None = None

    def gpus(self) -> Sequence[Gpu]:
        now = time.monotonic()
        if self._looked_at is None or now - self._looked_at > _AGAIN_SECONDS:
            self._looked_at = now
            self._look()
        return [device.gpu for device in self._devices.values()]

    def samples(self, uuids: Sequence[str]) -> Mapping[str, GpuSample]:
        found = {}
        for uuid in uuids:
            device = self._devices.get(uuid)
            if device is None:
                continue
            try:
                busy = self._nvml.nvmlDeviceGetUtilizationRates(device.handle).gpu / 100
                used = int(self._nvml.nvmlDeviceGetMemoryInfo(device.handle).used)
            except self._nvml.NVMLError as error:
                log.warning("GPU %s cannot be asked: %s", uuid, error)
            else:
                found[uuid] = GpuSample(busy, used)
        return found

    def devices(self, uuids: Sequence[str]) -> Sequence[str]:
        own = [f"/dev/nvidia{self._devices[uuid].minor}" for uuid in uuids]
        shared = [path for path in _SHARED_NODES if Path(path).exists()]
        return [*own, *shared]

    def libraries(self) -> str | None:
        return self._libraries

    def _look(self) -> None:
        try:
            if self._nvml is None:
                import pynvml

                pynvml.nvmlInit()
                self._nvml = pynvml
                self._libraries = _folder_of_driver()
        except ImportError:
            self.why_none = "nvidia-ml-py is not installed (pip install 'stratal[gpu]')"
            return
        except Exception as error:  # no driver, no permission, versions that do not match
            self.why_none = f"NVIDIA's driver does not answer: {error}"
            return
        found: dict[str, _Device] = {}
        parted = 0
        for index in range(self._nvml.nvmlDeviceGetCount()):
            try:
                device = self._device(index)
            except self._nvml.NVMLError as error:
                log.warning("GPU %d of this machine is left out: %s", index, error)
                continue
            if device is None:
                parted += 1
            else:
                found[device.gpu.uuid] = device
        self._devices = found
        if found:
            self.why_none = ""
        elif parted:
            self.why_none = (
                f"the {parted} GPUs of this machine are cut into parts (MIG); whole ones are handed out"
            )
        else:
            self.why_none = "the driver knows of no GPU on this machine"

    def _device(self, index: int) -> _Device | None:
        """The device, None for one that is cut into parts. Raises the library's own error."""
        nvml = self._nvml
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        try:
            if nvml.nvmlDeviceGetMigMode(handle)[0]:
                return None
        except nvml.NVMLError:
            pass  # this kind cannot be cut
        name = _text(nvml.nvmlDeviceGetName(handle))
        memory = int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
        gpu = Gpu(_text(nvml.nvmlDeviceGetUUID(handle)), type_of(name), name, memory)
        return _Device(gpu, handle, int(nvml.nvmlDeviceGetMinorNumber(handle)))


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _folder_of_driver() -> str | None:
    """Where the library that was just loaded lies, unless the system's own loader looks there anyway."""
    try:
        for line in Path("/proc/self/maps").read_text().splitlines():
            path = line.partition("/")[2]
            if "libnvidia-ml.so" in path:
                folder = str(Path("/" + path).parent)
                return None if folder.startswith(_USUAL_LIBRARIES) else folder
    except OSError:
        pass
    return None
