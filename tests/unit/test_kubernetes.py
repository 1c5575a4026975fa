"""The manifests of --deploy kubernetes: valid for Kubernetes, consistent with each other and with the memory plan."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from generator import deploy
from generator.cli import main
from generator.models import specs
from tests import engines
from tests.unit.test_launch import SHELLCHECK

VERSIONS = ("1.27", kubernetes_validate.latest_version())
CUSTOM: dict[str, Any] = json.loads(Path(__file__).with_name("custom_resources.json").read_text())
IMAGE = "registry.example/triton:1"
Objects = dict[str, dict[str, Any]]


def made(tmp_path: Path, model: str = "llava", nodes: int = 1, *options: str) -> tuple[Objects, dict[str, Any]]:
    """The objects by kind, and the manifest's section on the machine."""
    output = tmp_path / "r"
    arguments = ["--model", model, "--tp", str(2 * nodes), "--output", str(output), "--nodes", str(nodes)]
    assert main([*arguments, "--deploy", "kubernetes", "--container", IMAGE, *options]) == 0
    documents = list(yaml.safe_load_all((output / "kubernetes.yaml").read_text()))
    manifest = json.loads((output / "manifest.json").read_text())
    assert "kubernetes.yaml" in manifest["files"]
    return {document["kind"]: document for document in documents}, manifest["machine"]


def templates(objects: Objects) -> list[dict[str, Any]]:
    """Pod templates, the one that answers first."""
    if "Deployment" in objects:
        return [objects["Deployment"]["spec"]["template"]]
    group = objects["LeaderWorkerSet"]["spec"]["leaderWorkerTemplate"]
    return [group["leaderTemplate"], group["workerTemplate"]]


def validate(document: dict[str, Any]) -> None:
    if document["kind"] in CUSTOM:
        jsonschema.validate(document, CUSTOM[document["kind"]])
        return
    for version in VERSIONS:
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("model", specs())
@pytest.mark.parametrize("nodes", [1, 2])
def test_manifests_are_valid(model: str, nodes: int, tmp_path: Path) -> None:
    objects, _ = made(tmp_path, model, nodes)
    kinds = {"Service", "PodMonitor", "PrometheusRule", "HorizontalPodAutoscaler"}
    assert set(objects) == kinds | {"Deployment" if nodes == 1 else "LeaderWorkerSet"}
    for document in objects.values():
        validate(document)
        assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", document["metadata"]["name"])
    for template in templates(objects):  # a pod's schema, also where a custom resource holds it
        labels = template["metadata"]["labels"]
        spec = {"selector": {"matchLabels": labels}, "template": template}
        validate({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}, "spec": spec})


@pytest.mark.parametrize("breaking", ["replicas", "startupPolicy"])
def test_the_schema_of_groups_refuses(breaking: str, tmp_path: Path) -> None:
    objects, _ = made(tmp_path, "llava", 2)
    objects["LeaderWorkerSet"]["spec"][breaking] = "Soon"
    with pytest.raises(jsonschema.ValidationError):
        validate(objects["LeaderWorkerSet"])


@pytest.mark.parametrize("nodes", [1, 2])
def test_objects_find_each_other(nodes: int, tmp_path: Path) -> None:
    objects, _ = made(tmp_path, "llava", nodes)
    answers = templates(objects)[0]
    labels = answers["metadata"]["labels"].items()
    container = answers["spec"]["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": 8000, "grpc": 8001, "metrics": 8002}
    assert objects["Service"]["spec"]["selector"].items() <= labels
    assert {port["targetPort"] for port in objects["Service"]["spec"]["ports"]} <= set(ports)
    assert objects["PodMonitor"]["spec"]["selector"]["matchLabels"].items() <= labels
    assert objects["PodMonitor"]["spec"]["podMetricsEndpoints"][0]["port"] in ports
    for worker in templates(objects)[1:]:  # which never answer
        assert not objects["Service"]["spec"]["selector"].items() <= worker["metadata"]["labels"].items()
    scaled = objects["HorizontalPodAutoscaler"]["spec"]
    target = objects["Deployment" if nodes == 1 else "LeaderWorkerSet"]
    assert scaled["scaleTargetRef"] == {
        "apiVersion": target["apiVersion"],
        "kind": target["kind"],
        "name": target["metadata"]["name"],
    }
    rules = objects["PrometheusRule"]["spec"]["groups"][0]["rules"]
    assert [m["pods"]["metric"]["name"] for m in scaled["metrics"]] == [rule["record"] for rule in rules]
    assert "nv_inference_queue_duration_us" in rules[0]["expr"]
    (pods,) = {match for rule in rules for match in re.findall(r'pod=~"([^"]+)"', rule["expr"])}
    mine, others = {
        1: (["llava-5d4f-x2k9p"], ["llava-next-5d4f-x2k9p"]),
        2: (["llava-0"], ["llava-0-1", "llava-next-0"]),
    }[nodes]
    assert all(re.fullmatch(pods, name) for name in mine) and not any(re.fullmatch(pods, name) for name in others)
    if nodes > 1:  # the controller makes a headless service of the set's own name
        assert objects["Service"]["metadata"]["name"] != objects["LeaderWorkerSet"]["metadata"]["name"]


@pytest.mark.parametrize("nodes", [1, 2])
def test_resources_are_the_memory_plans(nodes: int, tmp_path: Path) -> None:
    objects, needs = made(tmp_path, "vila", nodes, "--vision-gpus", "0,2")
    for template in templates(objects):
        pod = template["spec"]
        container = pod["containers"][0]
        limits = container["resources"]["limits"]
        assert limits["nvidia.com/gpu"] == needs["gpus"] == 3
        assert container["resources"]["requests"].items() >= limits.items()
        assert (int(limits["memory"].removesuffix("Gi")) - 1) << 30 < needs["host_bytes"]
        assert int(limits["memory"].removesuffix("Gi")) << 30 >= needs["host_bytes"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        shm = volumes["shm"]["emptyDir"]
        assert shm["medium"] == "Memory" and int(shm["sizeLimit"].removesuffix("Mi")) << 20 == needs["shm_bytes"]
        assert {m["name"]: m["mountPath"] for m in container["volumeMounts"]}["shm"] == "/dev/shm"
        assert {m["name"] for m in container["volumeMounts"]} == set(volumes)
        assert container["image"] == IMAGE
    startup = templates(objects)[0]["spec"]["containers"][0]["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 300


def test_scripts_inside_are_clean(tmp_path: Path) -> None:
    objects, _ = made(tmp_path, "llava", 2, "--name", "two")
    for template in templates(objects):
        container = template["spec"]["containers"][0]
        assert container["command"] == ["bash", "-euc"]
        script = tmp_path / "script.sh"
        script.write_text("#!/usr/bin/env bash\n# shellcheck disable=SC2154\n" + container["args"][0])
        done = subprocess.run([SHELLCHECK, "--norc", script], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_the_leader_names_its_group_and_starts_the_repository(tmp_path: Path) -> None:
    """Its script runs as it is, with this machine as every pod, and listens in place of sshd."""
    import socket

    objects, _ = made(tmp_path, "llava", 2)
    script = templates(objects)[0]["spec"]["containers"][0]["args"][0]
    launch = tmp_path / "launch.sh"
    launch.write_text('#!/bin/sh\ncat "$HOSTFILE"\n')
    launch.chmod(0o755)
    with socket.socket() as sshd:
        sshd.bind(("127.0.0.1", 0))
        sshd.listen()
        port = sshd.getsockname()[1]
        script = script.replace("/models/llava/launch.sh", str(launch)).replace("/2222", f"/{port}")
        environment = {
            # bash resolves the name of worker 1: group-1.domain
            "LWS_LEADER_ADDRESS": "127.0.0",
            "LWS_GROUP_SIZE": "2",
            "HOSTFILE": str(tmp_path / "hostfile"),
            "PATH": "/usr/bin:/bin",
        }
        script = script.replace("host=$group-$worker.$domain", 'echo "$group-$worker.$domain" >&2; host=127.0.0.1')
        done = subprocess.run(
            ["bash", "-euc", script], env=environment, capture_output=True, text=True, timeout=30, check=True
        )
    assert done.stderr == "127-1.0.0\n"
    assert done.stdout.splitlines() == [f"{socket.gethostname()} slots=2", "127.0.0.1 slots=2"]


def test_paths_that_pods_do_not_see_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = engines.llm(tmp_path / "engine", tp=2)
    made(tmp_path, "llava", 1, "--llm-engine-dir", str(engine))
    text = capsys.readouterr().err
    assert (
        f"warning[deploy-path]: the LLM engine is at {tmp_path}/engine, and the pods have their volume at /models\n"
        in text
    )
    assert f"--path-map {tmp_path}=/models/..." in text


def test_mapped_paths_are_fine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = engines.llm(tmp_path / "engine", tp=2)
    made(tmp_path, "llava", 1, "--llm-engine-dir", str(engine), "--path-map", f"{tmp_path}=/models/engines")
    assert "deploy-path" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("vila1.5-3b", "vila1-5-3b"),
        ("Phi-3-vision-128k-instruct", "phi-3-vision-128k-instruct"),
        ("__x__", "x"),
        ("3d", "model-3d"),
        ("a" * 80, "a" * 40),
    ],
)
def test_names_become_labels(name: str, label: str) -> None:
    assert deploy.app_name(name) == label
