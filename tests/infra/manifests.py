"""What infra/ holds, read and rendered; used by the tests beside it. No cluster is needed."""

import functools
import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
RENDERED = ("overlays/dev", "overlays/prod")
# Components that no overlay here uses.
OPTIONAL = ("eight-gpus", "managed-database", "pod-identity", "serving")
# Published schemas of KubeRay and Compose, which are not ours to ship.
SCHEMAS = ROOT.parent / "shared" / "schemas"


@functools.cache
def render(name):
    """All documents of a kustomization below infra/k8s or at a path, as `kubectl apply -k` would send them."""
    if shutil.which("kubectl"):
        command = ["kubectl", "kustomize"]
    elif shutil.which("kustomize"):
        command = ["kustomize", "build"]
    else:
        pytest.skip("neither kubectl nor kustomize is installed; nothing else renders an overlay truly")
    done = subprocess.run([*command, str(INFRA / "k8s" / name)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def jobs():
    """Jobs that are created one by one, each file a document."""
    return [yaml.safe_load(file.read_text()) for file in sorted((INFRA / "k8s/jobs").glob("*.yaml"))]


def pod_specs(document):
    """(where, pod specification) of every pod that a document stands for."""
    kind, spec = document["kind"], document.get("spec", {})
    metadata = document["metadata"]
    name = f"{kind}/{metadata.get('name') or metadata['generateName']}"
    if kind in ("Deployment", "StatefulSet", "Job"):
        yield name, spec["template"]["spec"]
    elif kind == "CronJob":
        yield name, spec["jobTemplate"]["spec"]["template"]["spec"]
    elif kind in ("RayCluster", "RayService"):
        spec = spec if kind == "RayCluster" else spec["rayClusterConfig"]
        yield f"{name}/head", spec["headGroupSpec"]["template"]["spec"]
        for group in spec["workerGroupSpecs"]:
            yield f"{name}/{group['groupName']}", group["template"]["spec"]
    elif kind == "RayJob":
        yield f"{name}/submitter", spec["submitterPodTemplate"]["spec"]


@functools.cache
def kuberay_schema(kind):
    """The schema of a custom resource's version v1."""
    file = SCHEMAS / f"ray.io_{kind.lower()}s.yaml"
    if not file.exists():
        pytest.skip(f"KubeRay's schemas are not at {SCHEMAS}")
    versions = yaml.load(file.read_text(), Loader=yaml.CSafeLoader)["spec"]["versions"]
    return next(v for v in versions if v["name"] == "v1")["schema"]["openAPIV3Schema"]


def compose_schema():
    file = SCHEMAS / "compose-spec.json"
    if not file.exists():
        pytest.skip(f"Compose's schema is not at {SCHEMAS}")
    return json.loads(file.read_text())


def unknown_fields(schema, value, path=""):
    """Fields that a structural schema does not know: a cluster would drop them in silence."""
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return []
    if isinstance(value, list):
        return [
            bad for i, item in enumerate(value) for bad in unknown_fields(schema.get("items", {}), item, f"{path}/{i}")
        ]
    if not isinstance(value, dict) or not schema.get("properties"):
        return []
    found = []
    for key, child in value.items():
        if key in schema["properties"]:
            found += unknown_fields(schema["properties"][key], child, f"{path}/{key}")
        elif path or key not in ("apiVersion", "kind", "metadata"):
            found.append(f"{path}/{key}")
    return found
