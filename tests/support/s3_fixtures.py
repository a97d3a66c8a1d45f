"""An S3 server of its own for the tests, and a proxy in front of it that fails on request."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import pytest

from trainplane.cluster.stack.moto_server import local_s3
from trainplane.storage import ensure_bucket
from trainplane.testing.fault_proxy import FaultProxy

_numbers = itertools.count()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The endpoint of a moto server in a process of its own; the environment points to it for the session."""
    pytest.importorskip("moto", reason="moto is not installed; install the 'dev' extra")
    with local_s3() as environment, pytest.MonkeyPatch.context() as patched:
        for name, value in environment.items():
            patched.setenv(name, value)
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
            patched.delenv(name, raising=False)
        yield environment["AWS_ENDPOINT_URL"]


@pytest.fixture
def s3_address(s3_server: str) -> str:
    """An `s3://` address in a bucket that no other test uses."""
    address = f"s3://test-{os.getpid()}-{next(_numbers)}/some/prefix"
    ensure_bucket(address)
    return address


@pytest.fixture
def faulty_s3(s3_server: str, s3_address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy before the S3 server; the environment points to the proxy."""
    with FaultProxy(s3_server, stall_s=10.0) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy
