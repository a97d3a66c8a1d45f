"""A command's paths are made portable or refused before anything is uploaded."""

import argparse
import os

import pytest

from jobs.cli import cluster_main
from jobs.cli.arguments import build_parser
from jobs.cluster.job_files import job_folder
from jobs.cluster.portable_args import (
    PATH_ARGS,
    PATH_OR_NAME_ARGS,
    check_context,
    check_settings,
    portable_args,
    required_addresses,
)
from jobs.commands.cluster.submit import job_command
from jobs.config import load_run_config
from trainplane.cluster.context import local
from trainplane.cluster.jobs.upload import check_upload
from trainplane.errors import UserError


@pytest.fixture
def here(tmp_path):
    """A context whose cluster is this machine."""
    return local(tmp_path / "home").at(ray="http://127.0.0.1:8265")


@pytest.fixture
def there(tmp_path):
    """A context whose cluster is another machine, with all it needs."""
    store = {name: f"s3://buck/{name}" for name in ("datasets", "checkpoints", "artifacts", "audit")}
    return local(tmp_path / "home", "lab").at(ray="http://head:8265", tracking="http://mlflow:5000", **store)


def portable(context, *args):
    parsed, _ = build_parser().parse_known_args(args)
    return portable_args(args, parsed, context)


def test_relative_paths_become_absolute_on_a_cluster_of_this_machine(here, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "sub" / "set").mkdir(parents=True)
    full = str(tmp_path)
    assert portable(here, "data", "pack", "photos", "mine") == ["data", "pack", f"{full}/photos", "mine"]
    assert portable(here, "data", "pack", "photos", "./out")[-1] == f"{full}/out"
    assert portable(here, "data", "pack", "photos", "mine", "--lists=sub")[-1] == f"--lists={full}/sub"
    assert portable(here, "train", "demo", "data.train=sub/set")[-1] == f"data.train={full}/sub/set"
    assert portable(here, "inpaint", "a.png", "m.png", "-o", "o.png")[1:] == [
        f"{full}/a.png",
        f"{full}/m.png",
        "-o",
        f"{full}/o.png",
    ]


@pytest.mark.parametrize(
    "words",
    [
        ("train", "demo", "train.steps=3", "data.train=s3://buck/x", "train.lr_g=1e-4"),
        ("train", "demo", "data.train=mine"),
        ("evaluate", "models:/isnet@production", "held"),
        ("evaluate", "runs:/abc/x", "s3://buck/held"),
        ("data", "pack", "s3://buck/photos", "mine"),
        ("data", "verify", "mine"),
    ],
)
def test_names_and_addresses_travel_as_they_are(here, there, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    assert portable(here, *words) == list(words)
    assert portable(there, *words) == list(words)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("data", "pack", "photos", "mine"), "photos"),
        (("data", "pack", "/data/photos", "mine"), "/data/photos"),
        (("train", "demo", "data.train=~/set"), "~/set"),
        (("train", "demo", "loss.perceptual_weights=../vgg.safetensors"), "../vgg.safetensors"),
        (("inpaint", "a.png", "m.png", "-o", "o.png"), "a.png"),
        (("data", "verify", "photos"), "photos"),
    ],
)
def test_a_path_on_this_machine_is_refused_for_another_cluster(there, tmp_path, monkeypatch, words, named):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    with pytest.raises(UserError) as refused:
        portable(there, *words)
    assert repr(named) in str(refused.value)
    assert "http://head:8265 cannot see" in str(refused.value)


def test_a_setting_in_a_file_that_is_a_path_here_is_refused_too(there, here):
    config = load_run_config("demo", ["data.train=/mnt/photos"])
    with pytest.raises(UserError, match=r"data\.train = '/mnt/photos' is a path on this machine"):
        check_settings(config, there)
    check_settings(config, here)
    check_settings(load_run_config("demo", []), there)


def test_a_context_of_local_folders_is_refused_for_another_cluster(tmp_path):
    with pytest.raises(UserError, match="cannot see this machine's folders"):
        check_context(local(tmp_path).at(ray="http://head:8265"))
    check_context(local(tmp_path).at(ray="http://127.0.0.1:8265"))


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9000", "http://localhost:9000"])
def test_an_endpoint_on_loopback_is_refused_for_another_cluster(there, endpoint):
    with pytest.raises(UserError, match=f"s3_endpoint = {endpoint} is this machine's loopback"):
        check_context(there.at(environment={"AWS_ENDPOINT_URL": endpoint}))
    with pytest.raises(UserError) as refused:
        check_context(there.at(tracking="http://me:word@127.0.0.1:5000"))
    assert "word" not in str(refused.value)
    check_context(there.at(environment={"AWS_ENDPOINT_URL": "http://store:9000"}))


def test_a_folder_of_two_gigabytes_is_refused_with_its_largest_files(tmp_path):
    for name, size in (("small.bin", 10), ("photos.tar", 2 * 2**30), ("other.tar", 2**20)):
        with open(tmp_path / name, "wb") as file:
            file.truncate(size)
    with pytest.raises(UserError, match=r"2049 MiB to upload, at most 100 .* photos\.tar \(2048 MiB\), other\.tar"):
        check_upload(tmp_path)


def test_what_the_job_must_reach(there):
    context = there.at(environment={"AWS_ENDPOINT_URL": "http://store:9000"}, tracking="https://user:word@mlflow")
    assert required_addresses(context) == ["tcp://store:9000", "tcp://mlflow:443"]
    assert required_addresses(local(there.home)) == []


def test_a_job_whose_store_does_not_answer_says_so_before_it_begins(tmp_path, monkeypatch, capsys):
    (tmp_path / "isnet.toml").write_text(
        'default = "lab"\n[context.lab]\nstore = "s3://buck"\ns3_endpoint = "http://127.0.0.1:1"\n'
        'tracking = "http://127.0.0.1:1"\n'
    )
    monkeypatch.delenv("ISNET_CONTEXT", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cluster_main, "_PAUSE_S", 0.0)
    monkeypatch.setattr("jobs.cli.main.main", lambda words: pytest.fail("it began"))
    assert cluster_main.main(["train", "demo"]) == 2
    message = capsys.readouterr().err
    assert "tcp://127.0.0.1:1: Connection refused: it does not answer from" in message
    assert "Traceback" not in message


def test_a_job_that_reaches_everything_is_the_command_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ISNET_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("ISNET_CONTEXT", raising=False)
    monkeypatch.setattr("jobs.cli.main.main", lambda words: 3 if words == ["train", "demo"] else 4)
    assert cluster_main.main(["train", "demo"]) == 3


def test_the_parser_gives_every_argument_that_is_a_path():
    """A new argument that is a file must be added to `portable_args`, or a remote job will not find the file."""
    path_args = set()

    def walk(parser):
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for child in action.choices.values():
                    walk(child)
            elif action.metavar in ("SRC", "DIR", "FILE", "OUT", "IMAGE", "MASK", "DATASET", "DEST", "FROM"):
                path_args.add(action.dest)

    walk(build_parser())
    assert path_args - {*PATH_ARGS, *PATH_OR_NAME_ARGS} <= {"files", "words"}
    assert len(path_args) > 10


def test_links_without_end_and_what_is_no_file_are_refused_before_they_are_copied(here, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    with open(tmp_path / "elsewhere" / "large", "wb") as file:
        file.truncate(150 * 2**20)
    for number, (make, words) in enumerate(
        (
            (lambda folder: [(folder / name).symlink_to(".") for name in "ab"], "would have no end"),
            (lambda folder: (folder / "a").symlink_to("/nowhere"), "a link to none"),
            (lambda folder: (folder / "a").symlink_to("a"), "a link to none"),
            (lambda folder: os.mkfifo(folder / "pipe"), "is no file or folder"),
            (lambda folder: (folder / "out").symlink_to(tmp_path / "elsewhere"), "150 MiB to upload"),
            (lambda folder: (folder / "isnet.toml").mkdir(), "the job's context is written there"),
        )
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        make(folder)
        with pytest.raises(UserError, match=words), job_folder(here, ["train", "demo"], str(folder)):
            pass


def test_a_file_travels_with_its_base_and_its_layers(here, there, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "base.yaml").write_text("base: demo\n")
    (tmp_path / "mine.yaml").write_text("base: sub/base.yaml+laptop\n")
    with job_folder(here, ["train", "mine.yaml+laptop"], None) as (folder, words):
        assert words == ["train", "./mine.yaml+laptop"]
        assert portable(there, "train", "./mine.yaml+laptop")[-1] == "./mine.yaml+laptop"
        assert (folder / "sub" / "base.yaml").read_text() == "base: demo\n"
    (tmp_path / "mine.yaml").write_text(f"base: {tmp_path}/sub/base.yaml\n")
    with (
        pytest.raises(UserError, match="does not travel with the job"),
        job_folder(there, ["train", "mine.yaml"], None),
    ):
        pass
    (tmp_path / "sub" / "mine.yaml").write_text("base: mine.yaml\n")
    with (
        pytest.raises(UserError, match="another file of the name mine"),
        job_folder(here, ["train", "sub/mine.yaml"], None),
    ):
        pass


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("train", "demo", "--nope"), "--nope is no option of `isnet train`"),
        (("train", "demo", "--steps", "5"), "settings have no dashes: write train.steps=5"),
        (("data", "show", "mine", "more"), "'more' is one word too many for `isnet data show`"),
        (("tune", "x", "-q"), "-q is no option of `isnet tune`"),
        (("trian", "demo"), "did you mean `isnet train`"),
        (("train", "demo", "--no-follow"), "before the command: isnet submit --no-follow train demo"),
        (("train", "demo", "--cpus", "2", "train.steps=3"), "isnet submit --cpus 2 train demo train.steps=3"),
    ],
)
def test_words_that_the_command_does_not_take_are_refused_here(here, words, sentence):
    with pytest.raises(UserError, match=sentence):
        job_command(list(words), here)
    assert job_command(["train", "demo", "--fresh", "train.steps=3"], here)[-1] == "train.steps=3"
