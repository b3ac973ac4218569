"""PyTorch's DistributedDataParallel as a gang: gloo on CPUs, a member killed, on from the checkpoint."""

import os
import signal
from typing import Any

import pytest

from journeys.jobs.test_gangs import Asker, writers
from platform_server import PlatformServer, wait_until

TRAIN = """
import os, pathlib, time
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
torch.manual_seed(0)
model = DistributedDataParallel(torch.nn.Linear(8, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
kept = pathlib.Path(os.environ["STRATAL_CHECKPOINT_DIR"], "state.pt")
begin = 0
if kept.exists():
    state = torch.load(kept)
    model.module.load_state_dict(state["model"])
    begin = state["step"]
print("begins at", begin, flush=True)
truth = torch.arange(8.0).unsqueeze(1)
for step in range(begin + 1, 41):
    torch.manual_seed(1000 * step + rank)  # other rows on every rank
    rows = torch.randn(32, 8)
    loss = ((model(rows) - rows @ truth) ** 2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if rank == 0:
        part = kept.with_suffix(".part")
        torch.save({"model": model.module.state_dict(), "step": step}, part)
        part.rename(kept)
    dist.barrier()
    print("step", step, "loss", f"{loss.item():.4f}", flush=True)
    time.sleep(0.1)
weights = model.module.weight.detach().clone()
mean = weights.clone()
dist.all_reduce(mean)
assert torch.equal(mean / world, weights), "the ranks hold different weights"
assert (weights - truth.T).abs().max() < 0.5, weights
print("agreed", flush=True)
dist.destroy_process_group()
"""


def over(ask: Asker, job: str) -> dict[str, Any] | None:
    """The job when it has ended."""
    found = dict(ask.get(f"/jobs/{job}").json())
    return found if found["ended_at"] else None


@pytest.mark.soak
def test_distributed_data_parallel_goes_on_when_a_member_is_killed(fresh_server: PlatformServer) -> None:
    ask = Asker(fresh_server)
    job = ask.detach(
        *("--no-code", "--with", "torch==2.13.0", "--memory", "1GiB", "--cpus", "1"),
        *("--procs-per-node", "2", "--retries", "2", "--", "python", "-c", TRAIN),
    )
    wait_until(lambda: "step 10 " in ask.log(job, rank=1) or over(ask, job), seconds=900)
    if (found := over(ask, job)) and found["exit_code"] is None:
        pytest.skip(f"torch cannot be had here: {found['reason']}")
    os.kill(max(writers(ask.server, job, "/log.1")), signal.SIGKILL)
    ended = ask.ended(job)
    assert (ended["state"], ended["attempt"]) == ("succeeded", 2), ask.log(job)
    for rank in range(2):
        log = ask.log(job, rank=rank, attempt=2).splitlines()
        begun = next(int(line.split()[2]) for line in log if line.startswith("begins at"))
        assert 9 <= begun < 40
        assert log[-1] == "agreed"
