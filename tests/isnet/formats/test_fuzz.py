"""Mutated files of weights: each is refused in a sentence, or gives tensors, and takes no more memory than a sound one.

Seeds decide everything, so that a seed that was once wrong stays a test.
"""

from __future__ import annotations

import io
import random
import resource
import sys
import zipfile
from collections.abc import Callable

import pytest
import torch
from mutations import mutated

import isnet
from isnet.errors import InputError
from isnet.formats.released import load
from isnet.weights import load_model, save_model

# Beyond the largest sound file; what the allocator keeps is in it.
MOST_GROWTH = 64 << 20


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], bool]:
    """Reads the mutated file of a seed; False where it was refused in a sentence."""
    folder = tmp_path_factory.mktemp("fuzz")
    state = {"conv1.weight": torch.rand(3, 2), "bn.weight": torch.rand(2), "deconv13.weight": torch.rand(2, 2, 1, 1)}
    files = []
    for new in (True, False):
        file = io.BytesIO()
        torch.save({"generator": state, "iteration": 3}, file, _use_new_zipfile_serialization=new)
        files.append(file.getvalue())
    with zipfile.ZipFile(io.BytesIO(files[0])) as members:
        parts = {name: members.read(name) for name in members.namelist()}
    (structure,) = [name for name in parts if name.endswith("data.pkl")]
    network = isnet.build("unet_like", blocks=1, width=4)
    save_model(network, folder / "model")
    package = {file.name: file.read_bytes() for file in (folder / "model").iterdir()}
    sound = load_model(folder / "model").state_dict()

    def released(rng: random.Random, kind: int) -> None:
        path = folder / "released"
        if kind < 2:
            path.write_bytes(mutated(rng, files[kind]))
        else:
            # The structure alone, in an archive whose checksums fit.
            with zipfile.ZipFile(path, "w") as file:
                for name, value in (parts | {structure: mutated(rng, parts[structure])}).items():
                    file.writestr(name, value)
        load(path)

    def packaged(rng: random.Random) -> None:
        changed = rng.choice(sorted(package))
        for name, value in package.items():
            (folder / "model" / name).write_bytes(mutated(rng, value) if name == changed else value)
        # What is not refused is what was saved.
        found = load_model(folder / "model").state_dict()
        assert all(torch.equal(found[name], value) for name, value in sound.items())

    def read_one(seed: int) -> bool:
        rng = random.Random(seed)
        try:
            released(rng, seed % 4) if seed % 4 < 3 else packaged(rng)
        except InputError as error:
            if str(folder) not in str(error) or "\n" in str(error):
                pytest.fail(f"seed {seed}: {error}")
            return False
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
        return True

    return read_one


# Seeds that once ended in another error than a sentence.
FOUND: list[int] = [1484]


def peak_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def test_some_mutated_files_are_refused_in_a_sentence(read: Callable[[int], bool]) -> None:
    read_count = sum(read(seed) for seed in [*range(200), *FOUND])
    assert read_count < 60


@pytest.mark.nightly
def test_twenty_thousand_mutated_files_are_refused_in_a_sentence(read: Callable[[int], bool]) -> None:
    for seed in range(200):
        read(seed)
    before = peak_bytes()
    count = sum(read(seed) for seed in range(20_000))
    print(f"20000 mutated files: {20_000 - count} refused, {(peak_bytes() - before) >> 20} MB more at most")
    assert peak_bytes() - before < MOST_GROWTH
