"""The door put together from what it needs."""

from stratal.ai.endpoints.serving import Serving
from stratal.ai.finetuning.service import FineTunes
from stratal.compute.jobs import Jobs
from stratal.data.objects.service import Objects
from stratal.gateway.credentials import Authenticator
from stratal.gateway.openai.batches import Batches
from stratal.gateway.openai.door import OpenAIDoor
from stratal.gateway.openai.files import Files
from stratal.gateway.openai.finetuning import FineTuning
from stratal.kernel.clock import Clock


def furnish(
    bearer: Authenticator,
    serving: Serving,
    objects: Objects,
    jobs: Jobs,
    finetunes: FineTunes,
    clock: Clock,
    *,
    batch_program: str,
) -> OpenAIDoor:
    """The OpenAI door on the project's endpoints, objects and jobs."""
    files = Files(objects)
    batches = Batches(objects, files, jobs, batch_program, clock)
    tuning = FineTuning(objects, files, jobs, finetunes, clock)
    return OpenAIDoor(bearer, serving, files, batches, tuning, clock)
