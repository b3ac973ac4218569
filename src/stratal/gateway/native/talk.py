"""``/api/v1``: comments, what happened lately, one's notifications, and webhooks."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import Field

from stratal.collab.talk.model import Comment, Delivery, Notification, Webhook
from stratal.collab.talk.room import Talk
from stratal.gateway.native.bodies import Strict
from stratal.gateway.native.door import caller
from stratal.identity.model import Principal
from stratal.identity.projects import Projects
from stratal.kernel.clock import iso
from stratal.kernel.events import Event

Who = Annotated[Principal, Depends(caller)]
Subject = Annotated[str, Query(max_length=500)]


class NewComment(Strict):
    on: str = Field(description="run, model, table, endpoint, job, …", max_length=40)
    of: str = Field(description="The thing's id or name.", max_length=500)
    text: str = Field(description="Members named after an @ are told.", max_length=20_000)


class NewText(Strict):
    text: str = Field(max_length=20_000)


class Read(Strict):
    ids: list[str] | None = Field(None, max_length=1000, description="Absent: all.")


class Mailbox(Strict):
    address: str = Field("", max_length=254, description='"" forgets it.')
    wanted: bool = True


class NewWebhook(Strict):
    url: str = Field(max_length=2000)
    kinds: list[str] = Field(
        default_factory=list,
        description="job.failed, a beginning like job., or *. Absent: failed jobs, comments, merge requests, budgets.",
    )


def router(talk: Talk, projects: Projects) -> APIRouter:
    api = APIRouter(tags=["talk"])
    comments, inbox, webhooks = talk.comments, talk.inbox, talk.webhooks

    @api.get("/projects/{project}/comments")
    async def list_comments(who: Who, project: str, on: Subject, of: Subject) -> dict[str, object]:
        """What was said about a thing, oldest first."""
        place = await projects.get(who, project)
        return {"comments": [_comment(one, who) for one in await comments.list(who, place.id, on, of)]}

    @api.post("/projects/{project}/comments", status_code=201)
    async def add_comment(who: Who, project: str, body: NewComment) -> dict[str, object]:
        """Say something about a thing."""
        place = await projects.get(who, project)
        return _comment(await comments.add(who, place.id, body.on, body.of, body.text), who)

    @api.patch("/projects/{project}/comments/{comment}")
    async def edit_comment(who: Who, project: str, comment: str, body: NewText) -> dict[str, object]:
        """Say one's own comment anew."""
        place = await projects.get(who, project)
        return _comment(await comments.edit(who, place.id, comment, body.text), who)

    @api.delete("/projects/{project}/comments/{comment}", status_code=204)
    async def remove_comment(who: Who, project: str, comment: str) -> None:
        """Delete one's own comment; owners may delete anybody's."""
        place = await projects.get(who, project)
        await comments.remove(who, place.id, comment)

    @api.get("/projects/{project}/activity")
    async def list_activity(
        who: Who,
        project: str,
        kind: Annotated[str, Query(max_length=60, description="A kind or its beginning: job.")] = "",
        actor: Annotated[str, Query(max_length=200)] = "",
        before: Annotated[int | None, Query(ge=0, lt=2**62)] = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
    ) -> dict[str, object]:
        """What happened in the project, newest first; `next` is the `before` of the next page."""
        place = await projects.get(who, project)
        found = await talk.activity.list(
            who, place.id, kind=kind, actor=actor, before=before, limit=limit + 1
        )
        return {
            "events": [_event(one) for one in found[:limit]],
            "next": found[limit - 1].seq if len(found) > limit else None,
        }

    @api.get("/notifications")
    async def list_notifications(
        who: Who,
        unread: bool = False,
        before: Annotated[str | None, Query(max_length=60)] = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
    ) -> dict[str, object]:
        """What one was told, newest first."""
        found, count = await inbox.list(who, unread=unread, before=before, limit=limit)
        return {"notifications": [_notification(one) for one in found], "unread": count}

    @api.post("/notifications/read")
    async def read_notifications(who: Who, body: Read) -> dict[str, object]:
        """Mark what one was told as read."""
        return {"marked": await inbox.mark_read(who, body.ids)}

    @api.get("/account/mail")
    async def get_mailbox(who: Who) -> dict[str, object]:
        """Where one wants to be told by mail."""
        address, wanted, offered = await inbox.mailbox(who)
        return {"address": address, "wanted": wanted, "offered": offered}

    @api.put("/account/mail", status_code=204)
    async def set_mailbox(who: Who, body: Mailbox) -> None:
        """Say where one wants to be told by mail, or nowhere."""
        await inbox.set_mailbox(who, body.address, wanted=body.wanted)

    @api.get("/projects/{project}/webhooks")
    async def list_webhooks(who: Who, project: str) -> dict[str, object]:
        place = await projects.get(who, project)
        return {"webhooks": [_webhook(one) for one in await webhooks.list(who, place.id)]}

    @api.post("/projects/{project}/webhooks", status_code=201)
    async def create_webhook(who: Who, project: str, body: NewWebhook) -> dict[str, object]:
        """Have an address told of what happens. The secret that signs is in this answer and nowhere else."""
        place = await projects.get(who, project)
        made, secret = await webhooks.create(who, place.id, body.url, body.kinds)
        return {**_webhook(made), "secret": secret}

    @api.delete("/projects/{project}/webhooks/{webhook}", status_code=204)
    async def remove_webhook(who: Who, project: str, webhook: str) -> None:
        place = await projects.get(who, project)
        await webhooks.remove(who, place.id, webhook)

    @api.post("/projects/{project}/webhooks/{webhook}/test", status_code=202)
    async def test_webhook(who: Who, project: str, webhook: str) -> dict[str, object]:
        """Send it something now."""
        place = await projects.get(who, project)
        return {"delivery": await webhooks.test(who, place.id, webhook)}

    @api.get("/projects/{project}/webhooks/{webhook}/deliveries")
    async def list_deliveries(
        who: Who, project: str, webhook: str, limit: Annotated[int, Query(ge=1, le=500)] = 50
    ) -> dict[str, object]:
        """What was or is to be sent, newest first."""
        place = await projects.get(who, project)
        found = await webhooks.deliveries(who, place.id, webhook, limit=limit)
        return {"deliveries": [_delivery(one) for one in found]}

    return api


def _comment(one: Comment, who: Principal) -> dict[str, object]:
    return {
        "id": one.id,
        "on": one.on_kind,
        "of": one.on_id,
        "text": one.text,
        "author": one.author,
        "mine": one.author == who.actor and one.author_id == who.id,
        "created_at": iso(one.created_at),
        "edited_at": None if one.edited_at is None else iso(one.edited_at),
    }


def _event(event: Event) -> dict[str, object]:
    return {
        "seq": event.seq,
        "at": iso(event.at),
        "kind": event.kind,
        "subject": event.subject,
        "actor": event.actor,
        "data": event.data,
    }


def _notification(one: Notification) -> dict[str, object]:
    return {
        "id": one.id,
        "project": one.project,
        "kind": one.kind,
        "words": one.words,
        "on": one.on_kind,
        "of": one.on_id,
        "created_at": iso(one.created_at),
        "read_at": None if one.read_at is None else iso(one.read_at),
    }


def _webhook(one: Webhook) -> dict[str, object]:
    return {
        "id": one.id,
        "url": one.url,
        "kinds": list(one.kinds),
        "created_at": iso(one.created_at),
        "created_by": one.created_by,
        "rests": one.rests,
    }


def _delivery(one: Delivery) -> dict[str, object]:
    return {
        "id": one.id,
        "kind": one.kind,
        "state": one.state,
        "attempts": one.attempts,
        "due_at": iso(one.due_at),
        "status": one.status,
        "error": one.error,
        "created_at": iso(one.created_at),
        "ended_at": None if one.ended_at is None else iso(one.ended_at),
    }
