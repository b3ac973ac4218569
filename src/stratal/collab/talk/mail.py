"""Mail by SMTP, in a thread: encrypted, unless the server is this machine or the setting says otherwise."""

import smtplib
import ssl
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from urllib.parse import parse_qs, unquote, urlsplit

import anyio.to_thread

_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Smtp:
    """Where mail is handed over, and as whom. `encryption` is ``tls``, ``starttls`` or ``none``."""

    host: str
    port: int
    sender: str
    encryption: str
    user: str = ""
    password: str = field(default="", repr=False)

    async def send(self, address: str, title: str, text: str) -> None:
        """Raises `OSError` when it was not taken (`smtplib.SMTPException` is one)."""
        message = EmailMessage()
        message["From"] = self.sender
        message["To"] = address
        message["Subject"] = " ".join(title.split())[:200]
        message["Date"] = formatdate()
        message["Message-ID"] = make_msgid(domain="stratal.invalid")
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(text)
        await anyio.to_thread.run_sync(self._send, message)

    def _send(self, message: EmailMessage) -> None:
        context = ssl.create_default_context()
        if self.encryption == "tls":
            server: smtplib.SMTP = smtplib.SMTP_SSL(self.host, self.port, timeout=_SECONDS, context=context)
        else:
            server = smtplib.SMTP(self.host, self.port, timeout=_SECONDS)
        with server:
            if self.encryption == "starttls":
                server.starttls(context=context)
            if self.user:
                server.login(self.user, self.password)
            try:
                server.send_message(message)
            except smtplib.SMTPException as error:
                if _for_good(error):
                    raise Refused(str(error)) from error
                raise


class Refused(OSError):
    """The mail server will not take this message, however often it is asked."""


def _for_good(error: smtplib.SMTPException) -> bool:
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return all(code >= 500 for code, _ in error.recipients.values())
    return isinstance(error, smtplib.SMTPResponseException) and error.smtp_code >= 500


def smtp_of(url: str) -> Smtp:
    """``smtp://user:password@host:587?from=stratal@example.org``, or ``smtps://…``. Raises `ValueError`.

    ``&tls=none`` sends in the clear, which to this machine itself is the default.
    """
    parts = urlsplit(url)
    said = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    sender = said.get("from", "")
    if parts.scheme not in {"smtp", "smtps"} or not parts.hostname or "@" not in sender:
        raise ValueError("write smtp://HOST:PORT?from=ADDRESS or smtps://…")
    here = parts.hostname in {"localhost", "127.0.0.1", "::1"}
    encryption = "tls" if parts.scheme == "smtps" else "none" if here else "starttls"
    if said.get("tls", encryption) not in {encryption, "none", "starttls"}:
        raise ValueError("tls is starttls or none")
    encryption = encryption if encryption == "tls" else said.get("tls", encryption)
    port = parts.port or {"tls": 465, "starttls": 587, "none": 25}[encryption]
    return Smtp(
        parts.hostname, port, sender, encryption, unquote(parts.username or ""), unquote(parts.password or "")
    )
