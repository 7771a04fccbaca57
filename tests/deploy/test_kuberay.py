"""deploy/kuberay, without a cluster: kinds, selectors, volumes, tokens."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from convsvc.service.executor import pulse, supervisor

DIRECTORY = Path(__file__).parents[2] / "deploy/kuberay"
API_VERSIONS = {
    "PersistentVolumeClaim": "v1",
    "Service": "v1",
    "Deployment": "apps/v1",
    "Job": "batch/v1",
    "NetworkPolicy": "networking.k8s.io/v1",
    "RayCluster": "ray.io/v1",
}
Manifest = dict[str, Any]
MANIFESTS: list[Manifest] = [document for file in sorted(DIRECTORY.glob("*.yaml")) for document in yaml.safe_load_all(file.read_text())]


def of_kind(kind: str) -> list[Manifest]:
    return [manifest for manifest in MANIFESTS if manifest["kind"] == kind]


def pods() -> Iterator[tuple[str, Manifest]]:
    """Every pod template, by the name of what it belongs to."""
    for deployment in (*of_kind("Deployment"), *of_kind("Job")):
        yield deployment["metadata"]["name"], deployment["spec"]["template"]
    for cluster in of_kind("RayCluster"):
        yield "ray head", cluster["spec"]["headGroupSpec"]["template"]
        yield from ((f"ray {group['groupName']}", group["template"]) for group in cluster["spec"]["workerGroupSpecs"])


PODS = dict(pods())
every_pod = pytest.mark.parametrize("pod", PODS.values(), ids=PODS.keys())


def containers(pod: Manifest) -> list[Manifest]:
    found: list[Manifest] = pod["spec"]["containers"]
    return found


def environment(container: Manifest) -> dict[str, Any]:
    return {item["name"]: item.get("value", item.get("valueFrom")) for item in container.get("env", ())}


def test_there_are_an_api_an_executor_and_a_ray_cluster_with_workers() -> None:
    assert set(PODS) == {"convsvc-api", "convsvc-executor", "convsvc-check-storage", "ray head", "ray workers"}


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda manifest: f"{manifest['kind']} {manifest['metadata']['name']}")
def test_kinds_have_their_api_version_and_names_their_namespace(manifest: Manifest) -> None:
    assert manifest["apiVersion"] == API_VERSIONS[manifest["kind"]]
    assert manifest["metadata"]["namespace"] == "convsvc"


def test_deployments_select_the_pods_that_they_make() -> None:
    for deployment in of_kind("Deployment"):
        selector, labels = deployment["spec"]["selector"]["matchLabels"], deployment["spec"]["template"]["metadata"]["labels"]
        assert selector.items() <= labels.items()


def test_the_service_leads_to_a_port_of_the_api() -> None:
    (service,) = of_kind("Service")
    api = PODS["convsvc-api"]
    assert service["spec"]["selector"].items() <= api["metadata"]["labels"].items()
    assert service["spec"]["type"] == "ClusterIP"
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= {port["name"] for port in containers(api)[0]["ports"]}


def test_network_policies_select_pods_that_exist() -> None:
    for policy in of_kind("NetworkPolicy"):
        wanted = policy["spec"]["podSelector"]["matchLabels"].items()
        assert any(wanted <= pod["metadata"]["labels"].items() for pod in PODS.values())


@every_pod
def test_every_mount_has_a_volume_and_the_shared_one_is_at_one_path(pod: Manifest) -> None:
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    for container in containers(pod):
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert set(mounts) <= set(volumes)
        assert mounts["shared"] == "/shared"
    (claim,) = of_kind("PersistentVolumeClaim")
    assert volumes["shared"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


@every_pod
def test_pods_run_as_the_images_user_without_privileges(pod: Manifest) -> None:
    context = pod["spec"]["securityContext"]
    assert (context["runAsNonRoot"], context["runAsUser"]) == (True, 10001)
    assert all(container["securityContext"]["allowPrivilegeEscalation"] is False for container in containers(pod))


@every_pod
def test_images_are_pinned_and_memory_is_bounded(pod: Manifest) -> None:
    for container in containers(pod):
        assert container["image"].rpartition(":")[2] not in ("", "latest")
        assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("name", ["ray head", "ray workers", "convsvc-executor"])
def test_whatever_speaks_to_ray_has_the_token_from_the_secret(name: str) -> None:
    (container,) = containers(PODS[name])
    values = environment(container)
    assert values["RAY_AUTH_MODE"] == "token"
    assert values["RAY_AUTH_TOKEN"] == {"secretKeyRef": {"name": "convsvc-ray", "key": "auth_token"}}
    assert values["RAY_USAGE_STATS_ENABLED"] == "0"


def test_the_cluster_requires_the_same_token() -> None:
    (cluster,) = of_kind("RayCluster")
    assert cluster["spec"]["authOptions"] == {"mode": "token", "secretName": "convsvc-ray"}
    assert cluster["spec"]["rayVersion"] in (DIRECTORY.parents[1] / "constraints.txt").read_text()


def test_the_executor_joins_the_head_service_that_the_operator_makes() -> None:
    (cluster,) = of_kind("RayCluster")
    (executor,) = containers(PODS["convsvc-executor"])
    assert executor["args"][0].count(f"{cluster['metadata']['name']}-head-svc:6379") == 2
    assert "--num-cpus=0" in executor["args"][0]


def test_no_secret_is_written_down() -> None:
    for pod in PODS.values():
        for container in containers(pod):
            secret = {name: value for name, value in environment(container).items() if "TOKEN" in name or "URL" in name}
            assert all(isinstance(value, dict) and "secretKeyRef" in value for value in secret.values())


def test_the_executor_lives_by_its_own_pulse_not_by_the_heads() -> None:
    """That the head is away is no reason to end it: it waits, and its job with it."""
    (executor,) = containers(PODS["convsvc-executor"])
    for probe in ("startupProbe", "livenessProbe"):
        assert executor[probe]["exec"]["command"] == ["convsvc", "executor", "--check"]
    liveness = executor["livenessProbe"]
    assert liveness["periodSeconds"] * liveness["failureThreshold"] > supervisor.SILENCE_S, "the supervisor is quicker"
    assert PODS["convsvc-executor"]["spec"]["terminationGracePeriodSeconds"] > supervisor.DRAIN_S
    assert environment(executor)[pulse.VARIABLE].startswith("/tmp/")


def test_the_raylet_beside_the_executor_is_started_again_and_has_room_for_its_store() -> None:
    (executor,) = containers(PODS["convsvc-executor"])
    assert re.search(r"while true ; do\s+ray start .* --block ;.*done &\s+exec convsvc executor", executor["args"][0], re.DOTALL)
    volumes = {volume["name"]: volume for volume in PODS["convsvc-executor"]["spec"]["volumes"]}
    (shm,) = [mount["name"] for mount in executor["volumeMounts"] if mount["mountPath"] == "/dev/shm"]
    assert volumes[shm]["emptyDir"] == {"medium": "Memory", "sizeLimit": "256Mi"}


def test_api_and_executor_know_of_the_same_webhooks_and_the_api_whom_it_believes() -> None:
    (api,), (executor,) = containers(PODS["convsvc-api"]), containers(PODS["convsvc-executor"])
    for name in ("CONVSVC_WEBHOOK_HOSTS", "CONVSVC_WEBHOOK_SECRET"):
        assert environment(api)[name] == environment(executor)[name]
        assert environment(api)[name]["secretKeyRef"]["optional"] is True
    ipaddress.ip_network(environment(api)["FORWARDED_ALLOW_IPS"])


def test_the_ingress_and_prometheus_reach_the_api() -> None:
    (policy,) = [policy for policy in of_kind("NetworkPolicy") if policy["metadata"]["name"] == "convsvc-api"]
    (rule,) = policy["spec"]["ingress"]
    spaces = [who["namespaceSelector"]["matchExpressions"][0] for who in rule["from"] if "namespaceSelector" in who]
    assert spaces[0]["key"] == "kubernetes.io/metadata.name"
    assert {"ingress-nginx", "monitoring"} <= set(spaces[0]["values"])


@every_pod
def test_no_pod_has_the_volume_walked_for_its_group(pod: Manifest) -> None:
    """Most drivers of shared volumes ignore it; where one does not, the first mount changes the owner of every file."""
    assert "fsGroup" not in pod["spec"]["securityContext"]
