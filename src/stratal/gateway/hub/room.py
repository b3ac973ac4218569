"""The door put together from what it needs."""

from stratal.ai.models.commits import Commits
from stratal.ai.models.registered import RegisteredModels
from stratal.data.objects.service import Objects
from stratal.gateway.credentials import Authenticator
from stratal.gateway.hub.datasets import DataSets
from stratal.gateway.hub.door import HubDoor
from stratal.gateway.hub.files import Files
from stratal.gateway.hub.repositories import Repositories
from stratal.gateway.hub.revisions import Revisions
from stratal.gateway.hub.uploads import Addresses
from stratal.identity.keys import Keys
from stratal.identity.projects import Projects
from stratal.kernel.clock import Clock


def furnish(
    bearer: Authenticator,
    keys: Keys,
    projects: Projects,
    names: RegisteredModels,
    commits: Commits,
    objects: Objects,
    clock: Clock,
) -> HubDoor:
    """The Hub door on the registry."""
    addresses = Addresses(keys, clock)
    return HubDoor(
        bearer,
        addresses,
        projects,
        Repositories(projects, names, commits),
        Revisions(names, commits),
        Files(commits, addresses),
        DataSets(objects),
        commits,
    )
