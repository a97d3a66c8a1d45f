"""Files that editors on Windows wrote are read as what they say."""

import pytest

from trainplane.cluster.context import resolve
from trainplane.config.text_file import read_text
from trainplane.errors import UserError


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16-le", "utf-16-be", "utf-16"])
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path, encoding):
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    (tmp_path / "note").write_bytes((mark + "größe\r\n").encode(encoding))
    assert read_text(tmp_path / "note") == "größe\n"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_contexts_and_secrets_may_have_one(tmp_path, monkeypatch, encoding):
    monkeypatch.delenv("ISNET_CONTEXT", raising=False)
    (tmp_path / "key").write_bytes("s3cret\r\n".encode(encoding))
    lines = ['default = "lab"', "[context.lab]", f'store = "{tmp_path}/store"']
    text = "\r\n".join([*lines, "[context.lab.secrets]", f'KEY = "file:{tmp_path}/key"', ""])
    (tmp_path / "isnet.toml").write_bytes(text.encode(encoding))
    context = resolve(start=tmp_path)
    assert (context.name, context.environment["KEY"]) == ("lab", "s3cret")


def test_what_is_no_text_is_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("ISNET_CONTEXT", raising=False)
    (tmp_path / "isnet.toml").write_bytes(b"\xff\x00\x81")
    with pytest.raises(UserError, match="is not valid TOML"):
        resolve(start=tmp_path)
