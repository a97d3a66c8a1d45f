"""Contexts: one setting says where things are, and secrets stand in it by reference only."""

import pytest

from trainplane.cluster.context import resolve
from trainplane.cluster.context_file import text_for_job
from trainplane.errors import UserError

LAB = """
default = "lab"
[context.lab]
ray = "http://head:8265"
tracking = "http://mlflow:5000"
store = "s3://bucket/isnet"
s3_endpoint = "http://store:9000"
[context.lab.secrets]
AWS_SECRET_ACCESS_KEY = "env:LAB_KEY"
"""


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch):
    for name in ("ISNET_CONTEXT", "ISNET_HOME"):
        monkeypatch.delenv(name, raising=False)


def test_without_any_setting_everything_is_local(tmp_path):
    context = resolve(start=tmp_path)
    assert context.tracking == f"sqlite:///{tmp_path}/.isnet/mlflow.db"
    assert context.dataset("mine") == f"{tmp_path}/.isnet/datasets/mine"
    assert context.dataset("s3://bucket/x") == "s3://bucket/x"
    assert context.ray is None
    assert context.is_local


def test_home_may_be_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("ISNET_HOME", str(tmp_path / "h"))
    assert resolve(start=tmp_path).checkpoints == f"{tmp_path}/h/checkpoints"


def test_a_file_above_is_found_and_its_default_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_KEY", "hush")
    (tmp_path / "isnet.toml").write_text(LAB)
    (tmp_path / "a" / "b").mkdir(parents=True)
    context = resolve(start=tmp_path / "a" / "b")
    assert (context.name, context.ray, context.checkpoints) == (
        "lab",
        "http://head:8265",
        "s3://bucket/isnet/checkpoints",
    )
    assert context.environment["AWS_SECRET_ACCESS_KEY"] == "hush"
    assert context.environment["MLFLOW_S3_ENDPOINT_URL"] == context.environment["AWS_ENDPOINT_URL"]
    assert not context.is_local


@pytest.mark.parametrize("end", ["\n", "\r\n", " ", "\t\n"])
def test_a_secret_is_taken_without_the_line_end_behind_it(tmp_path, monkeypatch, end):
    monkeypatch.setenv("LAB_KEY", f"hush{end}")
    (tmp_path / "isnet.toml").write_text(LAB)
    assert resolve(start=tmp_path).environment["AWS_SECRET_ACCESS_KEY"] == "hush"


def test_places_are_whole_whatever_folder_the_command_is_typed_in(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "isnet.toml").write_text(
        'default = "lab"\n[context.lab]\nstore = "~/isnet"\ndatasets = "data"\n'
        'audit = "file:///srv/audit"\ntracking = "sqlite:///~/mlflow.db"\n'
    )
    (tmp_path / "below").mkdir()
    context = resolve(start=tmp_path / "below")
    assert context.checkpoints == "/home/me/isnet/checkpoints"
    assert context.datasets == f"{tmp_path}/data"
    assert context.audit == "/srv/audit"
    assert context.tracking == "sqlite:////home/me/mlflow.db"


@pytest.mark.parametrize("folder", ["what?now", "a%20b"])
def test_a_home_that_no_database_address_can_hold_is_refused(tmp_path, monkeypatch, folder):
    monkeypatch.setenv("ISNET_HOME", str(tmp_path / folder))
    with pytest.raises(UserError, match="set ISNET_HOME"):
        resolve(start=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["s3:/bucket/x", "S3://bucket/x", "s3a://bucket/x", "s3://bucket//x"])
def test_a_mistyped_address_is_no_name_of_a_dataset(tmp_path, name):
    with pytest.raises(UserError):
        resolve(start=tmp_path).dataset(name)


def test_values_of_secrets_are_in_no_representation(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_KEY", "hush")
    (tmp_path / "isnet.toml").write_text(LAB)
    assert "hush" not in repr(resolve(start=tmp_path))


def test_a_secret_may_come_from_a_file(tmp_path):
    (tmp_path / "key").write_text("from-file\n")
    (tmp_path / "isnet.toml").write_text(LAB.replace("env:LAB_KEY", f"file:{tmp_path}/key"))
    assert resolve(start=tmp_path).environment["AWS_SECRET_ACCESS_KEY"] == "from-file"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("env:LAB_KEY", "hush"), ["given by value", "env:NAME"]),
        (("env:LAB_KEY", "env:NOT_SET"), ["$NOT_SET", "not set"]),
        (("env:LAB_KEY", "file:/nowhere"), ["/nowhere", "cannot be read"]),
        (("tracking =", "traking ="), ["traking", "did you mean 'tracking'"]),
        (("http://head:8265", "head:6379"), ["head:6379", "http://HEAD:8265"]),
        (('default = "lab"', 'default = "lba"'), ["'lba' is not known", "lab"]),
        (("[context.lab]", "[context.lab"), ["is not valid TOML"]),
    ],
)
def test_a_mistake_in_the_file_is_answered_in_a_sentence(tmp_path, change, words):
    (tmp_path / "isnet.toml").write_text(LAB.replace(*change))
    with pytest.raises(UserError) as refusal:
        resolve(start=tmp_path)
    for word in words:
        assert word in str(refusal.value)
    assert "hush" not in str(refusal.value)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("store = 5", ["store of context 'lab' is not a text"]),
        ('store = ["s3://bucket"]', ["store of context 'lab' is not a text"]),
        ('store = " "', ["store of context 'lab' is not a text, or is empty"]),
        ('store = "s3://"', ["store of context 'lab' names no bucket"]),
        ('store = "$HOME/isnet"', ["store of context 'lab' names a variable", '"~/…"']),
        ('datasets = "${DATA}/isnet"', ["datasets of context 'lab' names a variable"]),
        ('store = "s3:/bucket/isnet"', ["store of context 'lab' cannot be used", "write 's3://bucket/isnet'"]),
        ('audit = "S3://bucket/audit"', ["audit of context 'lab' cannot be used", "write 's3://bucket/audit'"]),
        ('artifacts = "gs://bucket"', ["artifacts of context 'lab' cannot be used", "need s3://bucket/prefix"]),
        ('store = "s3://bucket//isnet"', ["store of context 'lab' cannot be used", "two slashes"]),
        ('store = "s3://bucket/x?endpoint=y"', ["store of context 'lab' cannot be used", "AWS_ENDPOINT_URL"]),
        ('store = " s3://bucket"', ["store of context 'lab' has a blank or a line end"]),
        ('s3_endpoint = "store:9000"', ["s3_endpoint of context 'lab' is not an address", "http://HOST:PORT"]),
        ('s3_endpoint = "http://store:9000?x=1"', ["s3_endpoint of context 'lab' has a query"]),
        ('s3_region = "us east"', ["s3_region of context 'lab' is no region"]),
        ("store_wait_s = 0", ["store_wait_s of context 'lab' is 0; need seconds from 30"]),
        ('store_wait_s = "soon"', ["store_wait_s of context 'lab' is 'soon'; need seconds from 30"]),
        ("store_wait_s = true", ["store_wait_s of context 'lab' is True; need seconds from 30"]),
        ('tracking = "http://mlflow:5000 # new"', ["tracking of context 'lab' is not an address"]),
        ('tracking = "sqlite:///"', ["tracking of context 'lab' is not an address", "names a file"]),
        ('tracking = "sqlite:///a%20b/mlflow.db"', ["a%20b", "cannot hold"]),
        ('tracking = "postgresql://me:hush@db/x"', ["tracking of context 'lab' is not an address"]),
        ('[context.lab.secrets]\nA = "file:two-lines"', ["secret A of context 'lab'", "more than one line"]),
        ('ray = "http://head:port"', ["ray of context 'lab' is not an address", "http://HOST:PORT"]),
        ('ray = "http://"', ["ray of context 'lab' is not an address"]),
        ('tracking = "http://mlflow:99999"', ["tracking of context 'lab' is not an address"]),
        ('tracking = "http://me:hush@mlflow:5000"', ["tracking of context 'lab' holds a user or a password"]),
        ('ray = "https://me:hush@head"', ["ray of context 'lab' holds a user or a password"]),
        ('s3_endpoint = "http://me:hush@store"', ["s3_endpoint of context 'lab' holds a user or a password"]),
        ('[context.lab.secrets]\n"A=B" = "env:HOME"', ["'A=B' is not the name of a variable"]),
        ('[context.lab.secrets]\nA = "file:a\\u0000b"', ["secret A of context 'lab'", "is read from"]),
    ],
)
def test_what_is_no_text_no_address_or_holds_a_password_is_refused(tmp_path, monkeypatch, table, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two-lines").write_text("hush\nhush\n")
    (tmp_path / "isnet.toml").write_text(f'default = "lab"\n[context.lab]\n{table}\n')
    with pytest.raises(UserError) as refusal:
        resolve(start=tmp_path)
    for word in words:
        assert word in str(refusal.value)
    assert "hush" not in str(refusal.value)


def test_a_misspelt_default_does_not_make_everything_local(tmp_path):
    (tmp_path / "isnet.toml").write_text(LAB.replace("default =", "defualt ="))
    with pytest.raises(UserError, match="unknown key 'defualt'; did you mean 'default'"):
        resolve(start=tmp_path)


def test_a_job_gets_the_context_without_its_cluster_and_its_secrets(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_KEY", "hush")
    (tmp_path / "isnet.toml").write_text(LAB.replace("s3_endpoint", "store_wait_s = 900\ns3_endpoint"))
    context = resolve(start=tmp_path)
    text = text_for_job(context)
    assert "hush" not in text
    (tmp_path / "isnet.toml").write_text(text)
    job_context = resolve(start=tmp_path)
    assert job_context == context.at(ray=None, environment=job_context.environment)
    assert job_context.environment["AWS_ENDPOINT_URL"] == "http://store:9000"
    assert job_context.environment["ISNET_STORE_WAIT_S"] == "900"
    assert "AWS_SECRET_ACCESS_KEY" not in job_context.environment


def test_the_home_above_is_found(tmp_path):
    (tmp_path / ".isnet").mkdir()
    (tmp_path / "docs" / "deep").mkdir(parents=True)
    assert resolve(start=tmp_path / "docs" / "deep").home == tmp_path / ".isnet"


def test_a_new_home_lies_beside_the_file_that_names_the_contexts(tmp_path):
    (tmp_path / ".isnet").mkdir()
    project = tmp_path / "project"
    (project / "docs").mkdir(parents=True)
    (project / "isnet.toml").write_text('[context.lab]\nstore = "s3://bucket/x"\n')
    assert resolve(start=project / "docs").home == project / ".isnet"
    assert resolve("lab", start=project / "docs").home == project / ".isnet"


def test_a_folder_that_everybody_writes_to_is_not_trusted(tmp_path):
    shared = tmp_path / "shared"
    (shared / "mine").mkdir(parents=True)
    (shared / ".isnet").mkdir()
    (shared / "isnet.toml").write_text('default = "trap"\n[context.trap]\nstore = "s3://thief/x"\n')
    shared.chmod(0o1777)
    context = resolve(start=shared / "mine")
    assert (context.name, context.home) == ("local", shared / "mine" / ".isnet")
    # Who works in it chose it.
    assert resolve(start=shared).name == "trap"


@pytest.mark.parametrize(
    ("typed", "file"),
    [
        ("sqlite:///runs.db", "{folder}/runs.db"),
        ("sqlite:///deep/runs.db?timeout=5", "{folder}/deep/runs.db?timeout=5"),
        ("sqlite:////var/lib/runs.db", "/var/lib/runs.db"),
    ],
)
def test_a_relative_database_is_one_from_every_folder(tmp_path, typed, file):
    folder = tmp_path / "project"
    (folder / "sub").mkdir(parents=True)
    (folder / "isnet.toml").write_text(f'[context.lab]\ntracking = "{typed}"\n')
    expected = "sqlite:///" + file.format(folder=folder)
    assert {resolve("lab", start=start).tracking for start in (folder, folder / "sub")} == {expected}
