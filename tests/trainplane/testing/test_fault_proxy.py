"""Fault proxy: limited uploads and final refusals."""

import time

import pytest

from trainplane.storage import StorageError, open_store
from trainplane.testing.fault_proxy import FaultProxy


def test_uploads_take_their_time_and_arrive_whole(s3_server, s3_address, monkeypatch):
    data = bytes(range(256)) * 2000
    with FaultProxy(s3_server, upload_bytes_per_s=1e6) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        store = open_store(s3_address)
        started = time.monotonic()
        store.write("sent", data)
        elapsed_s = time.monotonic() - started
        assert store.read("sent") == data
    assert 0.5 < elapsed_s < 20


def test_a_final_refusal_is_not_tried_again(faulty_s3, s3_address):
    faulty_s3.fault = lambda method, path, number: "denied" if method == "PUT" else None
    with pytest.raises(StorageError, match="AccessDenied"):
        open_store(s3_address).write("refused", b"x")
    assert faulty_s3.faults["denied"] == 1
