"""S3's XML: written by hand-sized helpers, read without document types or entities."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from xml.etree import ElementTree

from stratal.kernel.errors import Invalid

DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>\n'
NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"

_SPECIAL = re.compile("[&<>\x00-\x08\x0b-\x1f\x7f\ufffe\uffff]")
_UNSPEAKABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_NAMED = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


class Markup(str):
    """Text that is XML already."""

    __slots__ = ()


def element(name: str, *content: object) -> Markup:
    """``<name>content</name>``; content is escaped unless it is `Markup`, and None is left out."""
    inner = "".join(
        part if isinstance(part, Markup) else escape(str(part)) for part in content if part is not None
    )
    return Markup(f"<{name}>{inner}</{name}>")


def escape(text: str) -> str:
    """Escape for XML text. Control characters become references, as S3 sends them (a parser of XML 1.0 refuses
    most; clients that may meet such keys ask for ``encoding-type=url``)."""
    return _SPECIAL.sub(lambda m: _NAMED.get(m[0], f"&#x{ord(m[0]):x};"), text)


def shown(text: str) -> str:
    """The text with what XML 1.0 cannot carry written out (``\\x1f``): an error's words must always be readable."""
    return _UNSPEAKABLE.sub(lambda m: m[0].encode("unicode_escape").decode(), text)


def document(name: str, *content: object) -> bytes:
    """A whole answer in S3's namespace."""
    inner = "".join(part if isinstance(part, Markup) else escape(str(part)) for part in content)
    return f'{DECLARATION}<{name} xmlns="{NAMESPACE}">{inner}</{name}>'.encode()


def flag(value: bool) -> str:
    return "true" if value else "false"


def timestamp(milliseconds: int) -> str:
    """ISO 8601 as S3 writes it in XML: 2026-01-31T08:00:00.000Z."""
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{milliseconds % 1000:03d}Z"


def parse(body: bytes, root: str) -> ElementTree.Element:
    """Parse a request's XML, which must have the root `root`; namespaces are dropped. Raises `Invalid`.

    Documents with a type declaration are refused unread: that is where entities would come from.
    """
    try:
        text = body.decode("utf-8-sig")
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise ValueError("it has a document type")
        tree = ElementTree.fromstring(text)  # noqa: S314  no document type, so no entities to expand
    except (ValueError, ElementTree.ParseError) as error:
        raise Invalid(f"The XML cannot be read: {error}.", reason="MalformedXML") from error
    for node in tree.iter():
        node.tag = node.tag.rpartition("}")[2]
    if tree.tag != root:
        raise Invalid(f"The XML is a {tree.tag[:60]!r}, not a {root}.", reason="MalformedXML")
    return tree


def children(node: ElementTree.Element, name: str) -> Iterator[ElementTree.Element]:
    return (child for child in node if child.tag == name)


def text_of(node: ElementTree.Element, name: str) -> str | None:
    """The text of the child `name`; None when there is no such child."""
    child = node.find(name)
    return None if child is None else child.text or ""
