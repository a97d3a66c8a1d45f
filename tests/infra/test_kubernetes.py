"""Kubernetes manifests: valid by the published schemas, and as careful as docs/security.md says."""

import copy
import json
import re
import tomllib

import jsonschema
import kubernetes_validate
import pytest
import yaml
from manifests import INFRA, RENDERED, kuberay_schema, pod_specs, render, unknown_fields

from trainplane.cluster.context import resolve

SECRET_NAME = re.compile(r"PASSWORD|SECRET|TOKEN|ACCESS_KEY")


def check(document):
    """Raise where the document is not what its kind asks for."""
    if document["apiVersion"].startswith("ray.io/"):
        schema = kuberay_schema(document["kind"])
        jsonschema.Draft7Validator(schema).validate(document)
        assert not unknown_fields(schema, document)
        for _, spec in pod_specs(document):
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec}
            kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)
    else:
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def test_every_document_is_valid(rendered):
    for document in rendered:
        check(document)


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("Deployment", ["spec", "replicas"], "two"),
        ("Deployment", ["spec", "replcas"], 2),
        ("NetworkPolicy", ["spec", "policyTypes"], "Ingress"),
        ("RayCluster", ["spec", "enableInTreeAutoscaling"], "yes"),
        ("RayCluster", ["spec", "authOptions", "mode"], "password"),
        ("RayCluster", ["spec", "headGroupSpec", "rayStartParam"], {}),
        ("RayCluster", ["spec", "headGroupSpec", "template", "spec", "tolerations"], "spot"),
    ],
)
def test_a_mistake_in_a_manifest_is_found(kind, path, value):
    broken = copy.deepcopy(next(d for d in render("overlays/prod") if d["kind"] == kind))
    place = broken
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError, AssertionError)):
        check(broken)


def test_no_pod_runs_as_root_or_gains_rights(rendered):
    for document in rendered:
        for where, spec in pod_specs(document):
            pod = spec["securityContext"]
            assert pod["runAsNonRoot"] is True, where
            assert pod["seccompProfile"] == {"type": "RuntimeDefault"}, where
            for container in spec["containers"]:
                context = container["securityContext"]
                assert context["allowPrivilegeEscalation"] is False, where
                assert context["capabilities"]["drop"] == ["ALL"], where
            assert not any("hostPath" in volume for volume in spec.get("volumes", [])), where
            assert not spec.get("hostNetwork"), where


def test_every_container_has_limits_and_every_server_has_probes(rendered):
    for document in rendered:
        for where, spec in pod_specs(document):
            for container in spec["containers"]:
                assert {"cpu", "memory"} <= container["resources"]["limits"].keys(), where
                assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), where
                if document["kind"] != "RayJob":
                    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys(), where


def test_images_are_pinned_by_tag(rendered):
    images = [c["image"] for document in rendered for _, spec in pod_specs(document) for c in spec["containers"]]
    assert images
    assert all(re.search(r":[\w.-]*\d[\w.-]*$", image) for image in images), images


def test_secrets_stand_by_reference_alone(rendered):
    references = 0
    for document in rendered:
        assert document["kind"] != "Secret"
        for where, spec in pod_specs(document):
            for container in spec["containers"]:
                for entry in container.get("env", []):
                    references += "valueFrom" in entry
                    assert "valueFrom" in entry or not SECRET_NAME.search(entry["name"]), (where, entry)
                    assert not re.search(r"://[^/@]*:[^/@]*@", entry.get("value", "")), (where, entry)
    assert references


def test_nobody_talks_to_anybody_unless_told():
    for overlay in ("overlays/dev", "overlays/prod"):
        documents = render(overlay)
        policies = {d["metadata"]["name"]: d["spec"] for d in documents if d["kind"] == "NetworkPolicy"}
        assert policies["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
        # Nothing but names is open to all: an empty selector elsewhere would undo the denial.
        others = {n for n, p in policies.items() if not p["podSelector"] and n not in ("default-deny", "names")}
        assert not others
        text = yaml.safe_dump(policies)
        roles = set(re.findall(r"isnet/role: (\w+)", text)) | {"ray", "mlflow", "client"}
        labels = set(re.findall(r"isnet/role: (\w+)", yaml.safe_dump_all(documents))) | {"client"}
        assert roles <= labels
        # Of PostgreSQL MLflow alone is let in.
        (rule,) = policies["postgres"]["ingress"]
        assert rule["from"] == [{"podSelector": {"matchLabels": {"isnet/role": "mlflow"}}}]


def test_what_a_policy_allows_out_of_one_pod_another_allows_in():
    documents = render("overlays/prod")
    policies = [d["spec"] for d in documents if d["kind"] == "NetworkPolicy"]

    def selects(selector, role):
        wanted = selector.get("matchLabels", {}).get("isnet/role")
        terms = [e["values"] for e in selector.get("matchExpressions", []) if e["key"] == "isnet/role"]
        return wanted == role or any(role in values for values in terms)

    def allowed(side, peer_key, source, target, port):
        for policy in policies:
            own = target if side == "ingress" else source
            other = source if side == "ingress" else target
            head = own == "ray" and policy["podSelector"].get("matchLabels", {}).get("ray.io/node-type") == "head"
            if not (selects(policy["podSelector"], own) or head):
                continue
            for rule in policy.get(side, []):
                ports = [entry["port"] for entry in rule.get("ports", [])]
                peers = [peer.get("podSelector") for peer in rule.get(peer_key, []) if peer.get("podSelector")]
                if (not ports or port in ports) and any(selects(peer, other) for peer in peers):
                    return True
        return False

    ways = [("ray", "mlflow", 5000), ("ray", "ray", 6379), ("client", "ray", 8265), ("client", "mlflow", 5000)]
    for source, target, port in [*ways, ("mlflow", "postgres", 5432)]:
        assert allowed("egress", "to", source, target, port), (source, target)
        assert allowed("ingress", "from", source, target, port), (source, target)
    for source, target, port in [("ray", "postgres", 5432), ("client", "postgres", 5432), ("mlflow", "ray", 8265)]:
        assert not allowed("ingress", "from", source, target, port), (source, target)


def test_gpu_workers_come_and_go_on_spot_nodes_and_the_head_only_directs():
    cluster = next(d for d in render("overlays/prod") if d["kind"] == "RayCluster")["spec"]
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert cluster["authOptions"] == {"mode": "token"}
    (gpu,) = cluster["workerGroupSpecs"]
    assert (gpu["minReplicas"], gpu["maxReplicas"]) == (0, 64)
    spec = gpu["template"]["spec"]
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    keys = {toleration["key"] for toleration in spec["tolerations"]}
    assert {"nvidia.com/gpu", "cloud.google.com/gke-spot", "karpenter.sh/capacity-type"} <= keys


def test_jobs_wait_in_the_line_of_the_head_and_are_not_failed_for_waiting():
    from ray.autoscaler._private.kuberay.autoscaling_config import _get_custom_resources as offered

    from trainplane.cluster.jobs.queue import DRIVER, QUEUE_VARIABLES

    for overlay, places in (("dev", 2), ("prod", 6)):
        head = next(d for d in render(f"overlays/{overlay}") if d["kind"] == "RayCluster")["spec"]["headGroupSpec"]
        # KubeRay hands it to a shell: JSON in quotes, as a JSON text. Its autoscaler has a reading of its own.
        assert json.loads(json.loads(head["rayStartParams"]["resources"])) == {DRIVER: places}
        assert offered({}, head["rayStartParams"], "head") == {DRIVER: places}
    (container,) = head["template"]["spec"]["containers"]
    given = {one["name"]: one.get("value") for one in container["env"]}
    assert QUEUE_VARIABLES.items() <= given.items()
    for job in render("jobs"):
        assert json.loads(job["spec"]["entrypointResources"]) == {DRIVER: 1}


def test_the_dev_overlay_needs_no_gpu():
    cluster = next(d for d in render("overlays/dev") if d["kind"] == "RayCluster")
    assert "nvidia.com/gpu" not in yaml.safe_dump(cluster)


def test_patches_and_resources_fit_the_base_without_a_renderer():
    base = next(yaml.safe_load_all((INFRA / "k8s/base/raycluster.yaml").read_text()))
    patches = yaml.safe_load((INFRA / "k8s/overlays/dev/raycluster.yaml").read_text())
    patches += yaml.safe_load(
        yaml.safe_load((INFRA / "k8s/overlays/prod/kustomization.yaml").read_text())["patches"][0]["patch"]
    )
    for patch in patches:
        place = base
        for key in patch["path"].strip("/").split("/"):
            place = place[int(key)] if isinstance(place, list) else place[key]
    for folder in ("base", *RENDERED):
        for resource in yaml.safe_load((INFRA / "k8s" / folder / "kustomization.yaml").read_text())["resources"]:
            assert (INFRA / "k8s" / folder / resource).exists(), resource


def test_the_context_inside_is_one_that_we_can_read(tmp_path, monkeypatch):
    monkeypatch.delenv("ISNET_CONTEXT", raising=False)
    monkeypatch.delenv("ISNET_HOME", raising=False)
    assert (INFRA / "k8s/base/isnet.toml").read_text() == (INFRA / "isnet.toml").read_text()
    assert (INFRA / "k8s/base/basic_auth.ini").read_text() == (INFRA / "mlflow/basic_auth.ini").read_text()
    for folder in (INFRA, INFRA / "k8s/overlays/prod"):
        context = resolve(start=folder)
        assert (context.tracking, context.checkpoints) == ("http://mlflow:5000", "s3://isnet/checkpoints")
        assert tomllib.loads((folder / "isnet.toml").read_text())["context"]["cluster"].get("secrets") is None


def test_jobs_run_commands_that_exist():
    from jobs.cli.arguments import build_parser

    for job in render("jobs"):
        words = job["spec"]["entrypoint"].split()
        assert words[0] == "isnet"
        parsed = build_parser().parse_args(words[1:])
        assert parsed.command in ("train", "tune")
