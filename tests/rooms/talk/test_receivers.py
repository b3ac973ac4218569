"""Mail and webhooks all the way to receivers that really listen: what arrives there, and what is never sent."""

import asyncio
import hmac
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpcore
import orjson
import pytest
from aiosmtpd.controller import Controller

from rooms.talk.test_talk import Office, states
from stratal.collab.talk.mail import smtp_of
from stratal.collab.talk.outgoing import Outgoing, networks_of
from stratal.collab.talk.sending import MAIL_PAUSE_MS, PAUSES


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    made = Office(tmp_path)
    yield made
    made.database.close()
    made.runner.close()


class Postbox:
    """An SMTP server's handler: what it was handed, after refusing as often as it is told to."""

    def __init__(self, busy: int, code: str) -> None:
        self.busy, self.code = busy, code
        self.got: list[tuple[str, list[str], Message]] = []

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
        if self.busy:
            self.busy -= 1
            return self.code
        self.got.append((envelope.mail_from, envelope.rcpt_tos, message_from_bytes(envelope.content)))
        return "250 OK"


@contextmanager
def postbox(busy: int, code: str = "451 Come again later") -> Iterator[tuple[Postbox, int]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    box = Postbox(busy, code)
    controller = Controller(box, hostname="127.0.0.1", port=port)
    controller.start()
    try:
        yield box, port
    finally:
        controller.stop()


class Receiver(ThreadingHTTPServer):
    """Answers each POST with the next of `statuses` (the last one goes on), and remembers what came."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.got.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        statuses = self.server.statuses
        status = statuses.pop(0) if len(statuses) > 1 else statuses[0]
        self.send_response(status)
        if status in {301, 302, 307, 308}:
            self.send_header("Location", f"http://127.0.0.1:{self.server.port}/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing of it is anybody's news."""


def really(office: Office, networks: str = "") -> None:
    """Let the office send over the network."""
    sending: Any = office.talk.sending
    sending._outgoing = Outgoing(networks_of(networks))


def test_a_mention_arrives_as_one_mail_although_the_server_was_busy_first(office: Office) -> None:
    with postbox(busy=1) as (box, port):
        sending: Any = office.talk.sending
        sending._mail = smtp_of(f"smtp://127.0.0.1:{port}?from=stratal@example.org")
        office.do(office.talk.inbox.set_mailbox(office.ada, "ada@example.org", wanted=True))
        office.tell(lambda: True)
        office.do(
            office.talk.comments.add(office.ben, office.lab, "run", "r1", "@ada höre\r\nBcc: x@example.org")
        )
        office.tell(lambda: box.busy == 0)
        assert box.got == []
        office.now += MAIL_PAUSE_MS
        office.tell(lambda: bool(box.got) and mails(office) == ["sent"])
        office.now += MAIL_PAUSE_MS
        office.tell(lambda: True)
    ((sender, recipients, mail),) = box.got
    assert (sender, recipients) == ("stratal@example.org", ["ada@example.org"])
    assert (mail["From"], mail["To"], mail["Bcc"]) == ("stratal@example.org", "ada@example.org", None)
    assert mail["Subject"] == "[lab] ben mentioned you on run r1."
    assert mail["Auto-Submitted"] == "auto-generated"
    text = mail.get_payload(decode=True)
    assert isinstance(text, bytes)
    assert b"http://here/projects/lab/inbox" in text


def test_a_webhook_is_received_signed_and_again_when_it_was_refused(office: Office) -> None:
    with Receiver(503, 200) as receiver:
        really(office, "127.0.0.0/8")
        webhooks: Any = office.talk.webhooks
        webhooks._networks = networks_of("127.0.0.0/8")
        url = f"http://127.0.0.1:{receiver.port}/hook?room=1"
        _, secret = office.do(webhooks.create(office.ada, office.lab, url, ["job."]))
        office.tell(lambda: True)
        office.news("job.failed", "7", "person:ben", name="train")
        office.tell(lambda: states(office) == [("due", 1)])
        office.now += PAUSES[0] * 1000
        office.tell(lambda: states(office) == [("delivered", 2)])
    (path, first, body), (_, second, again) = receiver.got
    assert (path, body) == ("/hook?room=1", again)
    assert first["x-stratal-delivery"] == second["x-stratal-delivery"] == orjson.loads(body)["id"]
    for headers in (first, second):
        at, _, proof = headers["x-stratal-signature"].partition(",v1=")
        expected = hmac.digest(secret.encode(), f"{at[2:]}.".encode() + body, "sha256").hex()
        assert hmac.compare_digest(proof, expected)


def mails(office: Office) -> list[str]:
    return [row.mail for row in office.told_rows() if row.mail]


def test_what_a_mail_server_refuses_for_good_is_not_tried_again(office: Office) -> None:
    with postbox(busy=1, code="550 No such user") as (box, port):
        sending: Any = office.talk.sending
        sending._mail = smtp_of(f"smtp://127.0.0.1:{port}?from=stratal@example.org")
        office.do(office.talk.inbox.set_mailbox(office.ada, "ada@example.org", wanted=True))
        office.tell(lambda: True)
        office.do(office.talk.comments.add(office.ben, office.lab, "run", "r1", "@ada see"))
        office.tell(lambda: mails(office) == ["failed"])
        office.now += MAIL_PAUSE_MS
        office.tell(lambda: True)
    assert (box.busy, box.got) == (0, [])


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(office: Office, status: int) -> None:
    with Receiver(status) as receiver:
        sent = asyncio.run(
            Outgoing(networks_of("127.0.0.0/8")).post(f"http://127.0.0.1:{receiver.port}/here", b"{}", {})
        )
    assert sent == status
    assert [path for path, _, _ in receiver.got] == ["/here"]


@pytest.mark.parametrize(
    "answers",
    [
        [["127.0.0.1"]],
        [["93.184.216.34", "127.0.0.1"]],
        [["169.254.169.254"]],
        [["::ffff:127.0.0.1"]],
        [["93.184.216.34"], ["127.0.0.1"]],
    ],
    ids=["itself", "among public ones", "the cloud's", "mapped", "rebound"],
)
def test_a_name_that_means_this_machine_reaches_nothing(
    office: Office, monkeypatch: pytest.MonkeyPatch, answers: list[list[str]]
) -> None:
    """Also one that means a public address when it is made, or when it was asked before."""
    asked: list[str] = []
    connected: list[str] = []
    resolve = socket.getaddrinfo

    def lies(host: Any, port: Any, *more: Any, **named: Any) -> Any:
        if host != "rebind.example.org":
            return resolve(host, port, *more, **named)
        found = answers[min(len(asked), len(answers) - 1)]
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", lies)
    with Receiver(200) as receiver:
        really(office)

        async def noted(host: str, *_: Any, **__: Any) -> Any:
            connected.append(host)
            raise httpcore.ConnectError("refused")  # a public address: nobody is asked from a test

        url = f"http://rebind.example.org:{receiver.port}/"
        office.do(office.talk.webhooks.create(office.ada, office.lab, url, ["job."]))
        office.tell(lambda: True)
        monkeypatch.setattr(
            "httpcore.AnyIOBackend.connect_tcp", lambda _self, host, *a, **n: noted(host, *a, **n)
        )
        office.news("job.failed", "7", "person:ben", name="train")
        office.tell(lambda: states(office) in ([("dead", 1)], [("due", 1)]))
        if states(office)[0][0] == "due":
            office.now += PAUSES[0] * 1000
            office.tell(lambda: bool(states(office)) and states(office)[0][0] == "dead")
        assert receiver.got == []
    assert set(connected) <= {"93.184.216.34"}
