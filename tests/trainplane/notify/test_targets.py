"""Targets in isnet.toml: one address each, secrets by reference, and no address inside the cluster."""

import ipaddress
import socket
import tomllib

import pytest

from trainplane.cluster.context import resolve
from trainplane.cluster.context_file import text_for_job
from trainplane.errors import UserError
from trainplane.notify.private_address import NotPublic, check_literal, is_public, resolve_checked
from trainplane.notify.targets import targets_of, wanted_by

HOOK = {"webhook": "https://hooks.example.com/isnet", "secret": "env:HOOK"}


def test_patterns_choose_who_is_told():
    targets = targets_of({"all": HOOK, "bad": {**HOOK, "events": ["run.failed", "alias.*"]}}, "notify")
    assert wanted_by("run.failed", targets) == ["all", "bad"]
    assert wanted_by("run.finished", targets) == ["all"]
    assert wanted_by("alias.forced", targets) == ["all", "bad"]
    assert wanted_by("test", targets) == ["all", "bad"]


@pytest.mark.parametrize(
    ("table", "needs"),
    [
        ({}, "either webhook"),
        ({**HOOK, "apprise": "env:A"}, "either webhook"),
        ({"webhook": "https://hooks.example.com/x"}, "no secret"),
        ({**HOOK, "secret": "whsec_abc"}, "by value"),
        ({"apprise": "slack://a/b/c"}, "by value"),
        ({**HOOK, "events": ["run.fialed"]}, "run.failed"),
        ({**HOOK, "events": []}, "list of kinds"),
        ({**HOOK, "allow_private": "yes"}, "true or false"),
        ({**HOOK, "colour": "red"}, "unknown key"),
        ({**HOOK, "webhook": "http://hooks.example.com/x"}, "give https"),
        ({**HOOK, "webhook": "https://user:word@hooks.example.com/x"}, "password"),
    ],
)
def test_mistakes_are_refused_in_a_sentence(table, needs):
    with pytest.raises(UserError, match=needs) as refusal:
        targets_of({"ops": table}, "notify of context 'lab'")
    assert "whsec_abc" not in str(refusal.value)
    assert "slack://" not in str(refusal.value)


INSIDE = [
    "localhost", "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "10.1.2.3", "172.16.0.1",
    "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
    "[::1]", "[fd00:ec2::254]", "[fe80::1]", "[::ffff:10.0.0.1]",
    "[64:ff9b::a00:1]", "mlflow", "mlflow.isnet.svc", "mlflow.isnet.svc.cluster.local", "metadata.google.internal",
]  # fmt: skip


@pytest.mark.parametrize("host", INSIDE)
def test_webhooks_into_the_cluster_are_refused_unless_allowed(host):
    table = {**HOOK, "webhook": f"https://{host}/x"}
    with pytest.raises(UserError, match="allow_private = true"):
        targets_of({"ops": table}, "notify")
    assert targets_of({"ops": {**table, "allow_private": True}}, "notify")[0].allow_private


def test_public_addresses_are_told_from_private_ones():
    for text in ("1.1.1.1", "2606:4700::1111", "64:ff9b::101:101"):
        assert is_public(ipaddress.ip_address(text))
    for text in ("224.0.0.1", "2002:a00:1::1", "::", "ff02::1", "::7f00:1", "::a00:1", "64:ff9b:1::a00:1"):
        assert not is_public(ipaddress.ip_address(text))
    check_literal("hooks.example.com")
    check_literal("1.1.1.1")


def test_every_answer_of_a_name_is_checked(monkeypatch):
    answers = ["93.184.216.34", "169.254.169.254"]
    looked_up = []

    def getaddrinfo(host, port, **_):
        looked_up.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answer, port)) for answer in answers]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(NotPublic, match=r"169\.254\.169\.254"):
        resolve_checked("evil.example.com", 443, allow_private=False)
    answers.pop()
    # Looked up once: the connection goes to the address that was checked.
    assert resolve_checked("evil.example.com", 443, allow_private=False) == "93.184.216.34"
    assert looked_up == ["evil.example.com"] * 2


def test_plain_http_by_apprise_and_private_hosts_are_refused(monkeypatch):
    (target,) = targets_of({"team": {"apprise": "env:TEAM"}}, "notify")
    monkeypatch.setenv("TEAM", "json://169.254.169.254/x")
    with pytest.raises(UserError, match="plain HTTP"):
        target.resolved()
    monkeypatch.setenv("TEAM", "mmost://10.0.0.7/token")
    with pytest.raises(UserError, match="allow_private"):
        target.resolved()
    monkeypatch.setenv("TEAM", "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/#general")
    assert target.resolved().apprise.startswith("slack://")


def test_targets_travel_with_a_job_without_their_secrets(tmp_path, monkeypatch):
    monkeypatch.setenv("HOOK", "hush hush hush hush")
    monkeypatch.delenv("ISNET_CONTEXT", raising=False)
    (tmp_path / "isnet.toml").write_text(
        'default = "lab"\n[context.lab]\nstore = "s3://bucket/isnet"\n[context.lab.notify.ops]\n'
        'webhook = "https://hooks.example.com/isnet"\nsecret = "env:HOOK"\nevents = ["run.*"]\n'
    )
    context = resolve(start=tmp_path)
    text = text_for_job(context)
    assert "hush" not in text
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "isnet.toml").write_text(text)
    there = resolve(start=tmp_path / "job")
    assert (there.notify, there.store) == (context.notify, "s3://bucket/isnet")
    assert tomllib.loads(text)["context"]["lab"]["notify"]["ops"]["secret"] == "env:HOOK"
    # A secret that is missing stops no command; it is missed when something is sent.
    monkeypatch.delenv("HOOK")
    (target,) = resolve(start=tmp_path).notify
    with pytest.raises(UserError, match=r"\$HOOK"):
        target.resolved()
