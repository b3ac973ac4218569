"""What every operation gets: the request, who asks, the services, and the way to the request's body."""

from dataclasses import dataclass

from starlette.types import Receive

from stratal.data.objects.multipart import Uploads
from stratal.data.objects.service import Objects
from stratal.gateway.s3.body import Body, open_body, read_document
from stratal.gateway.s3.request import S3Request
from stratal.gateway.s3.sigv4 import Claim
from stratal.identity.model import Principal


@dataclass(frozen=True, slots=True)
class Call:
    request: S3Request
    who: Principal
    objects: Objects
    uploads: Uploads
    receive: Receive
    claim: Claim | None
    signing_key: bytes | None

    def body(self) -> Body:
        """The request's body, not read yet."""
        return open_body(self.request, self.claim, self.signing_key, self.receive)

    async def document(self) -> bytes:
        """The request's body when it is XML: whole, checked, at most 8 MiB; empty when there is none."""
        head = self.request.head
        if head.header("content-length") is None and head.header("transfer-encoding") is None:
            return b""
        return await read_document(self.request, self.body())
