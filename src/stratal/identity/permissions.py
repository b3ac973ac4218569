"""Permissions: one table, action × weakest role that may do it. Every service call names its action.

A principal acts in the project of its credential, a signed-in person in each that they are a member of, an
instance admin in every project. Whoever asks
for a thing of a project that is not theirs is told that there is no such thing (`NotFound`), so that
names of other projects cannot be probed.
"""

from stratal.identity.model import Principal, Role
from stratal.kernel.asking import note_denied
from stratal.kernel.errors import Denied, NotFound

RANK = {Role.VIEWER: 0, Role.EDITOR: 1, Role.OWNER: 2, Role.ADMIN: 3}

ACTIONS: dict[str, Role] = {
    "project.read": Role.VIEWER,
    "project.create": Role.ADMIN,
    "project.manage": Role.OWNER,
    "project.remove": Role.OWNER,
    "members.read": Role.VIEWER,
    "members.manage": Role.OWNER,
    "reports.read": Role.VIEWER,
    "reports.write": Role.EDITOR,
    "reports.publish": Role.OWNER,
    "shares.read": Role.VIEWER,
    "shares.manage": Role.OWNER,
    "keys.read": Role.OWNER,
    "keys.manage": Role.OWNER,
    "events.read": Role.VIEWER,
    "objects.read": Role.VIEWER,
    "objects.write": Role.EDITOR,
    "buckets.manage": Role.EDITOR,
    "tables.read": Role.VIEWER,
    "tables.write": Role.EDITOR,
    "sql.query": Role.VIEWER,
    "jobs.read": Role.VIEWER,
    "jobs.run": Role.EDITOR,
    "jobs.stop": Role.EDITOR,
    "pipelines.read": Role.VIEWER,
    "pipelines.run": Role.EDITOR,
    "features.read": Role.VIEWER,
    "features.publish": Role.EDITOR,
    "replays.read": Role.VIEWER,
    "replays.run": Role.EDITOR,
    "runs.read": Role.VIEWER,
    "runs.write": Role.EDITOR,
    "models.read": Role.VIEWER,
    "models.write": Role.EDITOR,
    "models.trust": Role.OWNER,
    "indexes.read": Role.VIEWER,
    "indexes.search": Role.VIEWER,
    "indexes.write": Role.EDITOR,
    "sweeps.read": Role.VIEWER,
    "sweeps.run": Role.EDITOR,
    "sweeps.stop": Role.EDITOR,
    "endpoints.read": Role.VIEWER,
    "endpoints.invoke": Role.VIEWER,
    "endpoints.deploy": Role.EDITOR,
    "functions.read": Role.VIEWER,
    "functions.invoke": Role.VIEWER,
    "functions.deploy": Role.EDITOR,
    "apps.read": Role.VIEWER,
    "apps.use": Role.VIEWER,
    "apps.deploy": Role.EDITOR,
    "predictions.read": Role.VIEWER,
    "repositories.read": Role.VIEWER,
    "repositories.write": Role.EDITOR,
    "repositories.manage": Role.OWNER,
    "workspaces.read": Role.VIEWER,
    "workspaces.use": Role.EDITOR,
    "comments.read": Role.VIEWER,
    "comments.write": Role.VIEWER,
    "comments.moderate": Role.OWNER,
    "webhooks.manage": Role.OWNER,
    "cost.read": Role.VIEWER,
    "prices.read": Role.VIEWER,
    "prices.manage": Role.ADMIN,
    "audit.read": Role.OWNER,
    "budgets.manage": Role.ADMIN,
    "instance.manage": Role.ADMIN,
}


def may(who: Principal, action: str, project_id: str) -> bool:
    """True when `who` may do `action` in the project. Raises `KeyError` for an action not in the table."""
    role = who.role_in(project_id)
    return RANK[ACTIONS[action]] <= (-1 if role is None else RANK[role])


def require(who: Principal, action: str, project_id: str, *, what: str = "") -> None:
    """Raise `NotFound` when the project is not the caller's, `Denied` when the role is too weak.

    `what` names the thing asked for (``bucket 'x'``) and is used in the message.
    """
    if may(who, action, project_id):
        return
    note_denied(action)
    role = who.role_in(project_id)
    if role is None:
        raise NotFound(
            f"There is no {what or 'such thing'} in project {who.project!r}.",
            hint="A key opens only its own project: check the name, or use a key of the right project.",
        )
    raise Denied(
        f"{action} needs the role {ACTIONS[action].value} in project {who.project!r}; this is {role.value}.",
        hint="Ask an owner of the project for a key with that role (stratal keys create --role …).",
    )
