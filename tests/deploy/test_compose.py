"""deploy/compose.yaml, without a Docker engine: its shape, and what must be the same in every container."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from convsvc.service.executor import supervisor

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "deploy/compose.yaml").read_text()
RAY_SERVICES = {"ray-head", "ray-worker", "executor"}
OURS = RAY_SERVICES | {"api"}

# What of the compose specification we use; a key that is not here is a typing mistake.
STRINGS: dict[str, Any] = {"type": "array", "items": {"type": "string"}}
DURATION = {"type": "string", "pattern": "^([0-9]+(ms|s|m|h))+$"}
SERVICE: dict[str, Any] = {
    "type": "object",
    "required": ["image", "restart", "healthcheck"],
    "additionalProperties": False,
    "properties": {
        "image": {"type": "string", "pattern": "^[a-z0-9./-]+:[A-Za-z0-9._-]+$"},
        "build": {"type": "object", "required": ["context", "dockerfile"], "additionalProperties": {"type": "string"}},
        "restart": {"enum": ["no", "always", "on-failure", "unless-stopped"]},
        "command": STRINGS,
        "entrypoint": STRINGS,
        "init": {"type": "boolean"},
        "environment": {"type": "object", "patternProperties": {"^[A-Za-z_]+$": {"type": "string"}}, "additionalProperties": False},
        "ports": {"type": "array", "items": {"type": "string", "pattern": r"^127\.0\.0\.1:[0-9]+:[0-9]+$"}},
        "volumes": STRINGS,
        "shm_size": {"type": "string", "pattern": "^[0-9]+[kmg]$"},
        "stop_grace_period": DURATION,
        "deploy": {
            "type": "object",
            "properties": {"replicas": {"type": "integer"}, "resources": {"type": "object", "required": ["limits"]}},
            "additionalProperties": False,
        },
        "depends_on": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "required": ["condition"],
                "properties": {"condition": {"enum": ["service_started", "service_healthy", "service_completed_successfully"]}},
            },
        },
        "healthcheck": {
            "type": "object",
            "required": ["test", "interval", "timeout", "retries"],
            "additionalProperties": False,
            "properties": {
                "test": {**STRINGS, "contains": {"enum": ["CMD", "CMD-SHELL"]}},
                "interval": DURATION,
                "timeout": DURATION,
                "start_period": DURATION,
                "retries": {"type": "integer", "minimum": 1},
            },
        },
    },
}
COMPOSE = {
    "type": "object",
    "required": ["name", "services", "volumes"],
    "additionalProperties": False,
    "patternProperties": {"^x-": {}},
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z0-9_-]+$"},
        "services": {"type": "object", "additionalProperties": SERVICE},
        "volumes": {"type": "object", "additionalProperties": {"type": "object"}},
    },
}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(TEXT)
    return loaded


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = compose["services"]
    return found


def test_it_has_the_shape_that_the_compose_specification_asks_for(compose: dict[str, Any]) -> None:
    jsonschema.validate(compose, COMPOSE)


def test_it_has_the_api_the_database_the_executor_a_ray_head_and_two_workers(services: dict[str, Any]) -> None:
    assert set(services) == {"api", "database", *RAY_SERVICES}
    assert services["ray-worker"]["deploy"]["replicas"] == 2


def test_everything_waits_for_services_that_exist_and_have_a_health_check(services: dict[str, Any]) -> None:
    for name, service in services.items():
        for other in service.get("depends_on", {}):
            assert "healthcheck" in services[other], name


def test_every_container_of_ours_has_the_shared_volume_at_one_path(compose: dict[str, Any], services: dict[str, Any]) -> None:
    mounts = {name: [volume for volume in services[name]["volumes"] if volume.endswith(":/shared")] for name in OURS}
    assert {tuple(found) for found in mounts.values()} == {("${CONVSVC_SHARED:-shared}:/shared",)}
    assert set(compose["volumes"]) == {"shared", "database"}


def test_every_ray_container_requires_the_token_and_sends_no_usage_statistics(services: dict[str, Any]) -> None:
    for name in RAY_SERVICES:
        environment = services[name]["environment"]
        assert environment["RAY_AUTH_MODE"] == "token", name
        assert environment["RAY_AUTH_TOKEN"].startswith("${RAY_AUTH_TOKEN:?"), name
        assert environment["RAY_USAGE_STATS_ENABLED"] == "0", name
        assert environment["RAY_grpc_client_keepalive_time_ms"] == "5000", name


def test_no_secret_has_a_value_or_a_default() -> None:
    for variable in re.findall(r"\$\{([A-Z_]*(?:PASSWORD|TOKEN)[^}]*)\}", TEXT):
        assert ":?" in variable


def test_no_image_is_the_latest_one(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["image"].rpartition(":")[2] not in ("", "latest"), name


def test_only_workers_run_tasks(services: dict[str, Any]) -> None:
    assert "--num-cpus=0" in services["ray-head"]["command"]
    assert "--num-cpus=0" in services["executor"]["command"][0]
    assert "--num-cpus=0" not in services["ray-worker"]["command"]


def test_a_worker_takes_as_many_cpus_as_it_says_and_no_more_memory_than_it_may(services: dict[str, Any]) -> None:
    """Each sees all of the host's: two would start twice as many tasks as there are CPUs."""
    limits = services["ray-worker"]["deploy"]["resources"]["limits"]
    assert f"--num-cpus={limits['cpus']}" in services["ray-worker"]["command"]
    assert all("memory" in services[name]["deploy"]["resources"]["limits"] for name in ("api", "executor", "ray-worker"))


def test_what_drains_is_given_the_time_to(services: dict[str, Any]) -> None:
    """Docker kills after 10 s where nothing is said."""
    assert seconds(services["executor"]["stop_grace_period"]) > supervisor.DRAIN_S
    assert seconds(services["api"]["stop_grace_period"]) > 5


def seconds(text: str) -> int:
    found = re.fullmatch(r"(\d+)s", text)
    assert found
    return int(found[1])


def test_the_executor_is_checked_by_its_own_pulse_and_its_raylet_is_started_again(services: dict[str, Any]) -> None:
    assert services["executor"]["healthcheck"]["test"] == ["CMD", "convsvc", "executor", "--check"]
    assert re.search(
        r"while true ; do\s+ray start .* --block ;.*done &\s+exec convsvc executor", services["executor"]["command"][0], re.DOTALL
    )


def test_api_and_executor_know_of_the_same_webhooks_and_the_api_whom_it_believes(services: dict[str, Any]) -> None:
    names = ("CONVSVC_WEBHOOK_HOSTS", "CONVSVC_WEBHOOK_SECRET")
    assert [services["api"]["environment"][name] for name in names] == [services["executor"]["environment"][name] for name in names]
    assert "/" in services["api"]["environment"]["FORWARDED_ALLOW_IPS"]
