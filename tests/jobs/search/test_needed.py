"""A search that cannot be read may need any checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.search.needed import needed_checkpoints
from jobs.search.stored import stored_searches
from trainplane.cluster.context import local
from trainplane.errors import UserError
from trainplane.storage import open_store


@pytest.mark.parametrize("file", ["search.json", "journal.jsonl"])
def test_a_search_that_cannot_be_read_is_an_error(tmp_path: Path, file: str) -> None:
    context = local(tmp_path)
    assert needed_checkpoints(context) == {}
    open_store(context.checkpoints).create(f"searches/s-0123/{file}", b"{")
    # Lists leave it out.
    assert stored_searches(context) == []
    with pytest.raises(UserError, match=r"s-0123 cannot be read .* nothing is removed"):
        needed_checkpoints(context)
