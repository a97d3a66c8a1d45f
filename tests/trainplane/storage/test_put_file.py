"""Files that are added to a store, for backups."""

from pathlib import Path

import pytest

from trainplane.storage import open_store, put_file


def test_files_are_added_and_never_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, store = tmp_path / "a.dump", tmp_path / "b.dump", tmp_path / "store"
    first.write_bytes(b"first")
    second.write_bytes(b"second")
    assert put_file.main([str(first), str(second), str(store)]) == 0
    first.write_bytes(b"other")
    assert put_file.main([str(first), str(store)]) == 2
    assert "has a.dump already" in capsys.readouterr().err
    kept = open_store(str(store))
    assert (kept.read("a.dump"), kept.read("b.dump")) == (b"first", b"second")


@pytest.mark.parametrize("arguments", [[], ["s3://bucket"], ["no-such-file", "store"]])
def test_wrong_arguments_are_the_users(
    arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert put_file.main(arguments) == 2
    assert capsys.readouterr().err
