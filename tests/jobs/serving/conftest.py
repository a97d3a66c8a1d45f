"""A registered starter in three versions: two that fill, and one that answers NaN."""

import shutil
from types import SimpleNamespace

import pytest
from project_fixtures import settle_in
from registered_starter import promote, register_starter

from trainplane.cluster.context import resolve


@pytest.fixture(scope="session")
def registered_once(tmp_path_factory, empty_tracking_db):
    folder = tmp_path_factory.mktemp("served")
    with pytest.MonkeyPatch.context() as patch:
        settle_in(folder, patch, empty_tracking_db)
        context = resolve()
        versions = [
            register_starter(context, "photo", folder / f"made-{number}", scale=scale)
            for number, scale in enumerate((1.0, 0.97, float("nan")))
        ]
        promote(context, versions[0])
        shutil.rmtree(folder / "made-0")
    return SimpleNamespace(folder=folder, versions=[version.version for version in versions])


@pytest.fixture
def served_home(registered_once, monkeypatch, empty_tracking_db):
    """The home with model `photo`: versions 1 (production), 2, and 3, which answers NaN."""
    settle_in(registered_once.folder, monkeypatch, empty_tracking_db)
    return registered_once.folder / "home"
