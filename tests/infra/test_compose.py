"""compose.yaml: valid, on loopback, with secrets by reference; and the scripts that it leans on."""

import os
import re
import stat
import subprocess

import jsonschema
import pytest
import yaml
from manifests import INFRA, compose_schema

from trainplane.cluster.jobs.queue import QUEUE_VARIABLES, head_args

SECRET_NAME = re.compile(r"PASSWORD|SECRET|TOKEN|ACCESS_KEY")


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((INFRA / "compose.yaml").read_text())


def test_it_is_a_compose_file(compose):
    jsonschema.Draft7Validator(compose_schema()).validate(compose)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(compose_schema()).validate({**compose, "services": {"s3": {"prots": []}}})


def test_ports_are_published_on_loopback_alone(compose):
    published = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_secrets_are_files_that_the_script_makes(compose, tmp_path):
    for name, service in compose["services"].items():
        for key, value in service.get("environment", {}).items():
            is_reference = key.endswith("_FILE") and value.startswith("/run/secrets/")
            assert is_reference or not SECRET_NAME.search(key), (name, key)
            assert not re.search(r"://[^/@]*:[^/@]*@", value), (name, key)
    made = tmp_path / "secrets"
    subprocess.run([INFRA / "make-secrets", made], check=True)
    first = {file.name: file.read_text() for file in made.iterdir()}
    assert first.keys() == {entry["file"].removeprefix("./secrets/") for entry in compose["secrets"].values()}
    assert len(set(first.values())) == len(first)
    assert all(len(value) >= 40 for value in first.values())
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    subprocess.run([INFRA / "make-secrets", made], check=True)
    assert {file.name: file.read_text() for file in made.iterdir()} == first


def test_jobs_wait_in_the_line_of_the_head_and_are_not_failed_for_waiting(compose):
    head = compose["services"]["head"]
    assert head_args(4)[0] in head["command"]
    assert QUEUE_VARIABLES.items() <= head["environment"].items()


def test_every_service_has_limits_a_check_and_drops_its_rights(compose):
    for name, service in compose["services"].items():
        assert {"cpus", "memory"} <= service["deploy"]["resources"]["limits"].keys(), name
        assert "no-new-privileges:true" in service["security_opt"], name
        ours = service["image"].startswith(("${ISNET_IMAGE", "${ISNET_CUDA_IMAGE"))
        # Ours has its check in the image; it reads what to ask from ISNET_HEALTH.
        assert "healthcheck" in service or (ours and "ISNET_HEALTH" in service["environment"]), name
        assert ours or re.search(r":[\w.-]*\d[\w.-]*$", service["image"]), name


def test_secrets_reach_a_command_as_variables_and_nothing_else_does(tmp_path):
    (tmp_path / "RAY_AUTH_TOKEN").write_text("a b$c\n")
    (tmp_path / "not-a-name").write_text("x")
    (tmp_path / "FOLDER").mkdir()
    environment = {"PATH": os.environ["PATH"], "ISNET_SECRETS": str(tmp_path)}
    done = subprocess.run([INFRA / "with-secrets", "env"], env=environment, capture_output=True, text=True, check=True)
    assert "RAY_AUTH_TOKEN=a b$c\n" in done.stdout
    assert "not-a-name" not in done.stdout
    assert "FOLDER" not in done.stdout
    nothing = {**environment, "ISNET_SECRETS": str(tmp_path / "nowhere")}
    assert subprocess.run([INFRA / "with-secrets", "sh", "-c", "exit 3"], env=nothing, check=False).returncode == 3
