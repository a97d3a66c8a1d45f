"""Ranks that fit here."""

import subprocess
import sys


def test_looking_for_room_does_not_import_ray(home):
    """A private cluster's token is set before Ray is imported; later it would be too late (`cluster.session`)."""
    code = (
        "import sys; import jobs.commands.train\n"
        "from jobs.config import load_run_config; from jobs.train.resources import ranks_here\n"
        "ranks_here(load_run_config('demo', [])); assert 'ray' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
