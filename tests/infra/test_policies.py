"""Bucket policies: each role may do what its commands need and nothing beside."""

import json
from fnmatch import fnmatchcase

import pytest
from manifests import INFRA

ROLES = ("cleaner", "trainer", "packer", "promoter", "submitter", "mlflow", "backup")


def statements(name):
    return json.loads((INFRA / "s3" / f"{name}.json").read_text())["Statement"]


def listed(value):
    return value if isinstance(value, list) else [value]


@pytest.mark.parametrize("role", ROLES)
def test_no_role_may_do_everything_or_leave_the_bucket(role):
    for statement in statements(role):
        assert all(action.startswith("s3:") and "*" not in action for action in listed(statement["Action"]))
        assert all(
            r == "arn:aws:s3:::isnet" or r.startswith("arn:aws:s3:::isnet/") for r in listed(statement["Resource"])
        )
        assert all(resource != "arn:aws:s3:::isnet/*" for resource in listed(statement["Resource"]))


def allows(role, action, key):
    def matches(statement):
        resources = [resource.removeprefix("arn:aws:s3:::isnet/") for resource in listed(statement["Resource"])]
        return action in listed(statement["Action"]) and any(fnmatchcase(key, resource) for resource in resources)

    found = [statement["Effect"] for statement in statements(role) if matches(statement)]
    return "Allow" in found and "Deny" not in found


def test_who_may_write_where():
    may = {
        (role, place): allows(role, "s3:PutObject", f"{place}/x")
        for role in ROLES
        for place in ("datasets", "checkpoints", "artifacts", "audit", "backups", "notify", "queue")
    }
    assert {key for key, value in may.items() if value} == {
        ("packer", "datasets"),
        ("cleaner", "datasets"),
        ("cleaner", "checkpoints"),
        ("trainer", "checkpoints"),
        ("trainer", "artifacts"),
        ("trainer", "notify"),
        ("promoter", "notify"),
        ("submitter", "queue"),
        ("submitter", "notify"),
        ("promoter", "artifacts"),
        ("promoter", "audit"),
        ("backup", "backups"),
    }
    assert not any(allows(role, "s3:DeleteObject", "audit/x") for role in ROLES)


def test_a_promoter_pins_what_it_registers_and_changes_nothing_else_of_a_run():
    key = "checkpoints/demo-0123/pins/step-00001000/models%3A%2Fm.json"
    assert allows("promoter", "s3:PutObject", key)
    assert not allows("promoter", "s3:DeleteObject", key)
    for name in ("step-00001000/tensors.safetensors", "attempt.json", "step-00001000/manifest.json"):
        assert not allows("promoter", "s3:PutObject", f"checkpoints/demo-0123/{name}")


def test_a_trainer_cannot_delete_what_is_registered():
    assert allows("trainer", "s3:DeleteObject", "checkpoints/demo-0123/step-00001000/tensors.safetensors")
    # A search lets go of the checkpoint that it handed over.
    assert allows("trainer", "s3:DeleteObject", "checkpoints/demo-0123/pins/step-00001000/search.json")
    assert not allows("trainer", "s3:DeleteObject", "checkpoints/demo-0123/pins/step-00001000/models%3A%2Fm.json")
    assert not allows("trainer", "s3:DeleteObject", "artifacts/1/models/m-0123/artifacts/MLmodel")


def test_by_age_alone_expires_only_what_nobody_can_need():
    rules = json.loads((INFRA / "s3" / "lifecycle.json").read_text())["Rules"]
    expiring = {rule["Filter"]["Prefix"]: rule["Expiration"]["Days"] for rule in rules if "Expiration" in rule}
    # A bucket knows no versions, searches and runs: `isnet gc` does. What it may forget is what is deleted already.
    assert expiring == {"backups/": 90}
    forgotten = {rule["Filter"]["Prefix"] for rule in rules if "NoncurrentVersionExpiration" in rule}
    assert forgotten == {"checkpoints/", "datasets/", "queue/"}
    everywhere = [rule for rule in rules if "AbortIncompleteMultipartUpload" in rule]
    assert [rule["Filter"]["Prefix"] for rule in everywhere] == [""]
    # The longest upload of a shard or a checkpoint takes hours.
    assert everywhere[0]["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] >= 2
    assert len({rule["ID"] for rule in rules}) == len(rules)
