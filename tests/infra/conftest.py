"""The kustomizations, rendered once."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import manifests


@pytest.fixture(params=[*manifests.RENDERED, "jobs"])
def rendered(request):
    """Documents of each kustomization in turn, and the jobs."""
    return manifests.jobs() if request.param == "jobs" else manifests.render(request.param)
