"""Unmodified boto3 clients of two projects of one running platform."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import boto3
import pytest

from platform_server import PlatformServer

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Place:
    """A project: its variables and a boto3 client made of nothing else."""

    project: str
    env: dict[str, str]
    s3: Any

    def other(self, **options: Any) -> Any:
        """Another client of the same key with options of boto3's."""
        return client_of(self.env, **options)

    def bucket(self) -> str:
        """A new bucket."""
        name = f"bucket-{next(_numbers)}"
        self.s3.create_bucket(Bucket=name)
        return name


def client_of(env: dict[str, str], **options: Any) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=env["AWS_ENDPOINT_URL"],
        aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
        region_name=env["AWS_REGION"],
        **options,
    )


@pytest.fixture(scope="session")
def place_of(server: PlatformServer) -> Callable[[], Place]:
    def make() -> Place:
        project = server.project()
        env = server.env(project)
        return Place(project, env, client_of(env))

    return make


@pytest.fixture(scope="module")
def mine(place_of: Callable[[], Place]) -> Place:
    return place_of()


@pytest.fixture(scope="module")
def theirs(place_of: Callable[[], Place]) -> Place:
    return place_of()


@pytest.fixture
def bucket(mine: Place) -> str:
    return mine.bucket()
