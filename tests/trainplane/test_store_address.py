"""Addresses of stores: what is taken, and what a likely mistake is answered with."""

from pathlib import Path

import pytest

from trainplane.errors import UserError
from trainplane.store_address import full_address


@pytest.mark.parametrize(
    ("address", "full"),
    [
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://bucket/a/b/", "s3://bucket/a/b"),
        ("s3://bucket/50%/x#1", "s3://bucket/50%/x#1"),
        ("/data/x", "/data/x"),
        ("rel/x", "/base/rel/x"),
        ("~/x", "/home/me/x"),
        ("./s3:/x", "/base/s3:/x"),
        ("run:1/x", "/base/run:1/x"),
        ("ends with a blank ", "/base/ends with a blank "),
        ("not-utf8-\udcff", "/base/not-utf8-\udcff"),
        ("file:///a%20b", "/a b"),
        ("file://localhost/a", "/a"),
        ("file:/a", "/a"),
        ("file:///what?now#then", "/what?now#then"),
    ],
)
def test_an_address_becomes_whole(monkeypatch, address, full):
    monkeypatch.setenv("HOME", "/home/me")
    assert full_address(address, base=Path("/base")) == full


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("", ["is empty"]),
        ("s3:/bucket/x", ["write 's3://bucket/x'"]),
        ("s3:bucket/x", ["write 's3://bucket/x'"]),
        ("S3://bucket/x", ["write 's3://bucket/x'"]),
        ("s3a://bucket/x", ["write 's3://bucket/x'"]),
        ("arn:aws:s3:::bucket/x", ["write 's3://bucket/x'"]),
        ("https://bucket.s3.amazonaws.com/x/y", ["write 's3://bucket/x/y'"]),
        ("https://s3.eu-west-1.amazonaws.com/bucket/x", ["write 's3://bucket/x'"]),
        ("https://minio:9000/bucket/x", ["need s3://bucket/prefix", "AWS_ENDPOINT_URL"]),
        ("minio://host/bucket", ["need s3://bucket/prefix", "AWS_ENDPOINT_URL"]),
        ("gs://bucket/x", ["need s3://bucket/prefix"]),
        ("c:/photos", ["is no address"]),
        ("s3://photos//lead", ["two slashes", "'s3://photos/lead'"]),
        ("s3://photos/lead//", ["two slashes", "'s3://photos/lead'"]),
        ("s3://photos//", ["two slashes", "'s3://photos'"]),
        ("s3://bucket/x?region=eu&endpoint_override=host:9000", ["query", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"]),
        (" s3://bucket/x", ["blank or a line end"]),
        ("s3://bucket/x\n", ["blank or a line end"]),
        (" /data", ["blank or a line end"]),
        ("/data\n", ["blank or a line end"]),
        ("s3://No_Bucket/x", ["no bucket's name"]),
        ("file://host/x", ["another host or no folder"]),
        ("file://~/x", ["another host or no folder"]),
        ("~nobody-has-this-name/x", ["no home folder is known"]),
    ],
)
def test_a_likely_mistake_is_answered_with_what_to_write(address, words):
    with pytest.raises(UserError) as refusal:
        full_address(address)
    for word in words:
        assert word in str(refusal.value)


@pytest.mark.parametrize(
    "address",
    [
        "s3://me:hush@bucket/x",
        "s3:/me:hush@bucket/x",
        "http://me:hush@host/bucket",
        "s3a://me:hush@bucket",
        "s3://bucket/x?secret_key=hush",
        "https://bucket.s3.amazonaws.com/x?X-Amz-Signature=hush",
    ],
)
def test_an_answer_repeats_no_secret(address):
    with pytest.raises(UserError) as refusal:
        full_address(address)
    assert "hush" not in str(refusal.value)
