"""Kubernetes manifests: valid by the published schemas, and as careful as docs/security.md says."""

import copy
import json
import re
import subprocess
import sys
import tomllib
from os.path import relpath

import jsonschema
import kubernetes_validate
import pytest
import yaml
from manifests import INFRA, OPTIONAL, RENDERED, jobs, kuberay_schema, pod_specs, render, unknown_fields

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
    elif document["apiVersion"].startswith("monitoring.coreos.com/"):
        # The operator's schema is not at hand: the three fields that are used.
        assert document["spec"].keys() == {"selector", "podMetricsEndpoints"}
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
            for container in [*spec.get("initContainers", []), *spec["containers"]]:
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
                if document["kind"] not in ("RayJob", "Job", "CronJob"):
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


def test_gpu_workers_start_from_none_where_an_autoscaler_looks_at_requests_alone():
    cluster = next(d for d in render("overlays/prod") if d["kind"] == "RayCluster")["spec"]
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert cluster["authOptions"] == {"mode": "token"}
    (gpu,) = cluster["workerGroupSpecs"]
    assert (gpu["minReplicas"], gpu["maxReplicas"]) == (0, 64)
    spec = gpu["template"]["spec"]
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    # A label that something sets on nodes that exist keeps an autoscaler from starting the first one.
    assert "nodeSelector" not in spec
    assert "requiredDuringSchedulingIgnoredDuringExecution" not in spec["affinity"]["nodeAffinity"]
    keys = {toleration["key"] for toleration in spec["tolerations"]}
    assert {"nvidia.com/gpu", "cloud.google.com/gke-spot"} <= keys
    # What a node of 8 CPUs and 32 GiB has left for pods, by the published tables of the clouds.
    requests = spec["containers"][0]["resources"]["requests"]
    assert float(requests["cpu"]) <= 7
    assert int(requests["memory"].removesuffix("Gi")) <= 26


def test_production_holds_no_keys_of_the_store_and_each_pod_has_a_role_of_its_own():
    documents = render("overlays/prod")
    assert "AWS_SECRET" not in yaml.safe_dump_all(documents)
    assert "isnet-s3-" not in yaml.safe_dump_all(documents)
    roles = {
        d["metadata"]["name"]: d["metadata"]["annotations"]["eks.amazonaws.com/role-arn"].rpartition("-")[2]
        for d in documents
        if d["kind"] == "ServiceAccount"
    }
    assert roles == {
        "isnet-head": "trainer",
        "isnet-worker": "trainer",
        "isnet-mlflow": "mlflow",
        "isnet-backup": "backup",
    }
    accounts = {where: spec.get("serviceAccountName") for d in documents for where, spec in pod_specs(d)}
    assert accounts["RayCluster/isnet/gpu"] == "isnet-worker"
    assert accounts["Deployment/mlflow"] == "isnet-mlflow"
    # A training pod is no administrator of MLflow.
    head = next(d for d in documents if d["kind"] == "RayCluster")["spec"]["headGroupSpec"]["template"]["spec"]
    names = {entry["name"]: entry for entry in head["containers"][0]["env"]}
    assert names["MLFLOW_TRACKING_USERNAME"]["valueFrom"]["secretKeyRef"]["name"] == "isnet-mlflow-client"
    assert "isnet-mlflow-server" not in yaml.safe_dump(head)


def test_every_value_of_a_place_stands_in_one_file(tmp_path):
    prod = (INFRA / "k8s/overlays/prod/kustomization.yaml").read_text()
    # Every example of that file, replaced: none is left in what is applied, and every replacement is in it.
    values = {
        "s3://example-bucket": "s3://photos/isnet",
        "eu-central-1": "ap-south-2",
        "gp3": "premium",
        "mlflow.example.com": "mlflow.lab.test",
        "ray.example.com": "ray.lab.test",
        "registry.example.com/isnet": "registry.lab.test/isnet",
        "role/example-": "role/lab-",
    }
    for example, value in values.items():
        assert example in prod
        prod = prod.replace(example, value)
    overlay = tmp_path / "prod"
    overlay.mkdir()
    (overlay / "isnet.toml").write_text((INFRA / "k8s/overlays/prod/isnet.toml").read_text())
    (overlay / "kustomization.yaml").write_text(prod.replace("../../", f"{relpath(INFRA / 'k8s', overlay)}/"))
    documents = render(overlay)
    text = yaml.safe_dump_all(documents)
    assert "example" not in text
    context = next(d for d in documents if d["metadata"]["name"] == "isnet-context")["data"]["isnet.toml"]
    assert tomllib.loads(context)["context"]["cluster"] == {
        "tracking": "http://mlflow:5000",
        "store": "s3://photos/isnet",
        "s3_region": "ap-south-2",
    }
    hosts = {d["metadata"]["name"]: d["spec"]["rules"][0]["host"] for d in documents if d["kind"] == "Ingress"}
    assert hosts == {"mlflow": "mlflow.lab.test", "ray": "ray.lab.test"}
    assert all(
        d["spec"]["tls"][0]["hosts"] == [hosts[d["metadata"]["name"]]] for d in documents if d["kind"] == "Ingress"
    )
    claims = next(d for d in documents if d["kind"] == "StatefulSet")["spec"]["volumeClaimTemplates"]
    assert claims[0]["spec"]["storageClassName"] == "premium"


@pytest.mark.parametrize("component", OPTIONAL)
def test_a_component_fits_production(tmp_path, component):
    k8s = relpath(INFRA / "k8s", tmp_path)
    text = f"resources: [{k8s}/overlays/prod]\ncomponents: [{k8s}/components/{component}]\n"
    (tmp_path / "kustomization.yaml").write_text(text)
    documents = render(tmp_path)
    assert documents != render("overlays/prod")
    for document in documents:
        check(document)


def test_a_service_serves_what_our_application_takes_behind_a_token():
    from jobs.serving import cluster_app

    documents = list(yaml.safe_load_all((INFRA / "k8s/components/serving/serving.yaml").read_text()))
    service = next(document for document in documents if document["kind"] == "RayService")
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    (application,) = config["applications"]
    module, _, function = application["import_path"].partition(":")
    assert (module, hasattr(cluster_app, function)) == (cluster_app.__name__, True)
    arguments = cluster_app.ClusterServing(**application["args"])
    cluster = service["spec"]["rayClusterConfig"]
    (workers,) = cluster["workerGroupSpecs"]
    # A GPU for each replica that fills, and none for the page.
    assert arguments.replicas * arguments.gpus == workers["replicas"] == workers["maxReplicas"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-gpus"] == "0"
    assert cluster["authOptions"] == {"mode": "token"}
    for where, spec in pod_specs(service):
        (container,) = spec["containers"]
        given = {entry["name"]: entry for entry in container["env"]}
        assert given[cluster_app.SERVE_TOKEN_VARIABLE]["valueFrom"]["secretKeyRef"]["name"] == "isnet-serving", where
        # KubeRay waits for a head that is ready before it hands over the application.
        assert "8000" not in json.dumps(container["readinessProbe"]), where
    # Its records survive the pod.
    head = cluster["headGroupSpec"]["template"]["spec"]
    assert {"name": "state", "persistentVolumeClaim": {"claimName": "isnet-serving"}} in head["volumes"]


def test_no_budget_stops_a_drain_for_ever():
    for overlay in RENDERED:
        for document in render(overlay):
            # At least one of one may go: `minAvailable: 1` on a single replica would stop every upgrade of nodes.
            assert document["kind"] != "PodDisruptionBudget"
    head = next(d for d in render("overlays/prod") if d["kind"] == "RayCluster")["spec"]["headGroupSpec"]
    annotations = head["template"]["metadata"]["annotations"]
    assert annotations["karpenter.sh/do-not-disrupt"] == "true"


def test_each_job_is_created_as_often_as_one_likes_and_is_gone_some_time():
    for job in jobs():
        assert "name" not in job["metadata"]
        assert job["metadata"]["generateName"].endswith("-")
        rules = {r["condition"]["jobStatus"]: r for r in job["spec"]["deletionStrategy"]["deletionRules"]}
        assert rules.keys() == {"SUCCEEDED", "FAILED"}
        # KubeRay allows nothing else beside a cluster that is shared.
        assert all(rule["policy"] == "DeleteSelf" for rule in rules.values())


@pytest.mark.nightly
def test_a_policy_checker_finds_nothing_that_is_not_explained(tmp_path):
    # Installed apart: its hundred dependencies are none of ours.
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    subprocess.run([tmp_path / "venv/bin/pip", "install", "--quiet", "checkov==3.3.30"], check=True)
    (tmp_path / "prod.yaml").write_text(yaml.safe_dump_all(render("overlays/prod")))
    explained = {
        "CKV_K8S_15",  # Always pulling: tags of a registry that are not moved need it not.
        "CKV_K8S_35",  # Secrets as files: MLflow, libpq and Ray read them from variables.
        "CKV_K8S_40",  # User ids above 10000: those of the images; no host path is mounted.
        "CKV_K8S_43",  # Digests: of images that everybody builds and pushes.
    }
    command = [tmp_path / "venv/bin/checkov", "--framework", "kubernetes", "--compact", "-o", "json"]
    command += ["--skip-check", ",".join(sorted(explained)), "-f", tmp_path / "prod.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    summary = json.loads(done.stdout)["summary"]
    assert summary["passed"] > 100, done.stderr
    assert summary["failed"] == 0, done.stdout


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
    for job in jobs():
        assert json.loads(job["spec"]["entrypointResources"]) == {DRIVER: 1}


def test_the_dev_overlay_needs_no_gpu():
    cluster = next(d for d in render("overlays/dev") if d["kind"] == "RayCluster")
    assert "nvidia.com/gpu" not in yaml.safe_dump(cluster)


def test_patches_and_resources_fit_the_base_without_a_renderer():
    base = next(yaml.safe_load_all((INFRA / "k8s/base/raycluster.yaml").read_text()))
    patches = yaml.safe_load((INFRA / "k8s/overlays/dev/raycluster.yaml").read_text())
    prod = yaml.safe_load((INFRA / "k8s/overlays/prod/kustomization.yaml").read_text())
    patches += yaml.safe_load(prod["patches"][0]["patch"])
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
        bucket = "s3://isnet" if folder == INFRA else "s3://example-bucket"
        assert (context.tracking, context.checkpoints) == ("http://mlflow:5000", f"{bucket}/checkpoints")
        assert tomllib.loads((folder / "isnet.toml").read_text())["context"]["cluster"].get("secrets") is None


def test_jobs_run_commands_that_exist():
    from jobs.cli.arguments import build_parser

    for job in jobs():
        words = job["spec"]["entrypoint"].split()
        assert words[0] == "isnet"
        parsed = build_parser().parse_args(words[1:])
        assert parsed.command in ("train", "tune")
