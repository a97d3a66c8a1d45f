"""Manifests of a shared cluster: a recurring job, and a run under Kueue with a Ray cluster of its own."""

import jsonschema
import kubernetes_validate
import yaml
from manifests import INFRA, jobs, kuberay_schema, pod_specs, unknown_fields

from jobs.cli.arguments import build_parser


def checked_job(spec, metadata):
    """Checks a RayJob's specification against KubeRay's schema, and its pods against Kubernetes'."""
    job = {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": metadata, "spec": spec}
    schema = kuberay_schema("RayJob")
    jsonschema.Draft7Validator(schema).validate(job)
    assert not unknown_fields(schema, job)
    cluster = {"kind": "RayCluster", "metadata": metadata, "spec": spec.get("rayClusterSpec")}
    for where, pod in [*pod_specs(job), *(pod_specs(cluster) if cluster["spec"] else [])]:
        whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": pod}
        kubernetes_validate.validate(whole, kubernetes_validate.latest_version(), strict=True)
        assert pod["securityContext"]["runAsNonRoot"] is True, where
        for container in pod["containers"]:
            assert container["securityContext"]["capabilities"]["drop"] == ["ALL"], where
            assert {"requests", "limits"} <= container["resources"].keys(), where
    build_parser().parse_args(spec["entrypoint"].split()[1:])
    return job


def test_a_recurring_job_is_one_of_ours_with_a_schedule():
    (document,) = yaml.safe_load_all((INFRA / "k8s/recurring/nightly.yaml").read_text())
    assert (document["kind"], set(document["spec"])) == ("RayCronJob", {"schedule", "timeZone", "jobTemplate"})
    assert len(document["spec"]["schedule"].split()) == 5
    checked_job(document["spec"]["jobTemplate"], document["metadata"])
    # All but the command is as in the other jobs.
    (train,) = [job for job in jobs() if "isnet train" in job["spec"]["entrypoint"]]
    ours, theirs = dict(document["spec"]["jobTemplate"]), dict(train["spec"])
    assert ours.pop("entrypoint") != theirs.pop("entrypoint")
    assert ours == theirs


def test_kueue_manages_a_run_with_a_cluster_of_its_own():
    queues = list(yaml.safe_load_all((INFRA / "k8s/kueue/queues.yaml").read_text()))
    by_kind = {document["kind"]: document for document in queues}
    (job,) = yaml.safe_load_all((INFRA / "k8s/kueue/train.yaml").read_text())
    labels, spec = job["metadata"]["labels"], job["spec"]
    assert labels["kueue.x-k8s.io/queue-name"] == by_kind["LocalQueue"]["metadata"]["name"]
    classes = {each["metadata"]["name"] for each in queues if each["kind"] == "WorkloadPriorityClass"}
    assert labels["kueue.x-k8s.io/priority-class"] in classes
    # What Kueue asks of a RayJob.
    assert spec["suspend"] is True
    assert spec["shutdownAfterJobFinishes"] is True
    assert "clusterSelector" not in spec
    assert not spec["rayClusterSpec"].get("enableInTreeAutoscaling")
    checked_job(spec, job["metadata"])
    # What the run asks for fits into the queue.
    quota = {
        each["name"]: each["nominalQuota"]
        for each in by_kind["ClusterQueue"]["spec"]["resourceGroups"][0]["flavors"][0]["resources"]
    }
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    assert int(quota["nvidia.com/gpu"]) >= group["replicas"]
    assert f"train.workers={group['replicas']}" in spec["entrypoint"]
    requests = group["template"]["spec"]["containers"][0]["resources"]["requests"]
    assert int(quota["cpu"]) >= group["replicas"] * int(requests["cpu"])
    assert int(quota["memory"][:-2]) >= group["replicas"] * int(requests["memory"][:-2])
