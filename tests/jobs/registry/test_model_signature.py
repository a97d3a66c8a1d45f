"""Who vouches for a version: signatures over its files, and the gate that asks for one."""

import shutil

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from jobs import api
from jobs.registry.model_signature import check_signed
from trainplane.cluster.context import resolve
from trainplane.registry.gates import evaluate_gates
from trainplane.registry.package import data_of, download
from trainplane.registry.rules import GateRules
from trainplane.registry.versions import ModelVersion

pytest.importorskip("model_signing", reason="needs the extra sign")


def key_pair(folder, name):
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    pem = serialization.Encoding.PEM
    private.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret"))
    )
    public.write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


def test_a_signature_names_who_vouches_and_a_gate_asks_for_it(isnet_there, project, tmp_path, monkeypatch):
    (private, public), (_, stranger) = key_pair(tmp_path, "ours"), key_pair(tmp_path, "stranger")
    made = api.register(project.run["run_id"], name="vouched")
    unsigned = isnet_there("models", "verify", made.address, "--key", public)
    assert unsigned.status == 2
    assert "is not signed; who vouches for it signs it: isnet models sign" in unsigned.err
    # An encrypted key needs its password, which no command line shows.
    locked = isnet_there("models", "sign", made.address, "--key", private)
    assert (locked.status, "ISNET_SIGNING_PASSWORD" in locked.err) == (2, True)
    monkeypatch.setenv("ISNET_SIGNING_PASSWORD", "secret")
    assert isnet_there("models", "sign", "vouched", made.version, "--key", private).status == 0
    assert isnet_there("models", "verify", made.address, "--key", public).status == 0
    assert "is not signed by stranger.pub" in isnet_there("models", "verify", made.address, "--key", stranger).err
    missing = isnet_there("models", "verify", made.address, "--key", tmp_path / "no.pem")
    assert "openssl ecparam -genkey" in missing.err
    # The gate, on the files themselves: as they were signed, and with one byte more.
    context = resolve()
    version = ModelVersion(context.tracking_server, "vouched", made.version)
    folder = tmp_path / "package"
    shutil.copytree(download(version, context.home / "cache" / "models"), folder)
    rules = GateRules(signed_by=(str(stranger), str(public)), requires=())
    for change, passes in ((None, True), ("trained.json", False), (".git", False)):
        if change is not None:
            with (data_of(folder) / change).open("ab") as file:
                file.write(b" ")
        check = check_signed(context, version, folder, rules.signed_by)
        verdicts = evaluate_gates(rules, None, baselines={}, production=None, lineage={}, checks={"signed": check})
        [verdict] = [verdict for verdict in verdicts if verdict.gate == "signed"]
        assert verdict.passed is passes, verdict.evidence
    assert check_signed(context, version, folder, [str(stranger)]).passed is False
