"""The manifests: accepted by Kubernetes' own schema, of one piece, and true to the server they run."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import httpx2
import kubernetes_validate
import pytest
from manifests import (
    BY_HAND,
    DEPLOY,
    KUBERNETES,
    Object,
    container,
    kustomization,
    named,
    objects,
    option,
    pod,
    pods,
    read_objects,
    selected,
)

from sptune.engine.batching import BatchingEngine
from sptune.engine.serving import Load
from sptune.engine.vllm.replicas import parse_urls
from sptune.errors import UsageError
from sptune.model.load import LoadedBase
from sptune.server.app import make_app
from sptune.server.keys import KeyFile
from sptune.server.metrics import Metrics
from sptune.server.settings import ServerSettings
from sptune.server.sources import read_settings

VARIANTS = ("local", "vllm")
IMAGE = {"SPTUNE_SERVE_HOST": "0.0.0.0"}  # the image's environment, see test_image.py
MANIFESTS = [
    file for file in sorted(KUBERNETES.rglob("*.yaml")) if file.name not in {"kustomization.yaml", "serve.yaml"}
]


def settings_of(variant: str) -> ServerSettings:
    return read_settings({}, config=KUBERNETES / variant / "serve.yaml", environment=IMAGE)


def load() -> Load:
    return Load(running=0, waiting=0, slots=1, queue_limit=1)


@pytest.mark.parametrize("version", ["1.30", "1.37"])
@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_kubernetes_knows_every_field(file: Path, version: str):
    for one in read_objects(file):
        assert kubernetes_validate.validate(one, version, strict=True)


def test_the_schema_check_finds_a_misspelt_field():
    deployment = named("local", "Deployment", "sptune")
    deployment["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readynessProbe"):
        kubernetes_validate.validate(deployment, "1.30", strict=True)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_kustomization_names_every_file_beside_it(variant: str):
    folder = KUBERNETES / variant
    told = kustomization(variant)
    [config] = told["configMapGenerator"]
    assert config["files"] == ["serve.yaml"]
    there = {file.name for file in folder.iterdir()} - {"kustomization.yaml", *BY_HAND}
    assert there == {name for name in (*told["resources"], *config["files"]) if not name.startswith("..")}
    volumes = pod(variant, "sptune")["spec"]["volumes"]
    assert [volume["configMap"]["name"] for volume in volumes if "configMap" in volume] == [config["name"]]


def selectors(one: Object) -> Iterator[dict[str, str]]:
    """What an object's selectors ask of pods; the empty one, which takes all, left out."""
    spec = one["spec"]
    if one["kind"] == "Service":
        yield spec["selector"]
    elif one["kind"] in {"Deployment", "StatefulSet", "PodDisruptionBudget"}:
        yield spec["selector"]["matchLabels"]
        for spread in spec.get("template", {}).get("spec", {}).get("topologySpreadConstraints", ()):
            yield spread["labelSelector"]["matchLabels"]
    elif one["kind"] == "NetworkPolicy":
        rules = [(rule, "from") for rule in spec.get("ingress", ())] + [(rule, "to") for rule in spec.get("egress", ())]
        peers = [peer for rule, side in rules for peer in rule[side]]
        for chosen in (spec["podSelector"], *(peer["podSelector"] for peer in peers if "podSelector" in peer)):
            if chosen:
                yield chosen["matchLabels"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_selector_finds_one_kind_of_pod(variant: str):
    found = [(one, labels) for one in objects(variant) if "spec" in one for labels in selectors(one)]
    assert len(found) >= 5
    for one, labels in found:
        assert len(selected(variant, labels)) == 1, one


@pytest.mark.parametrize("variant", VARIANTS)
def test_services_and_policies_use_ports_that_the_pods_have(variant: str):
    services = [one for one in objects(variant) if one["kind"] == "Service"]
    assert len(services) == len(pods(variant))
    for service in services:
        [template] = selected(variant, service["spec"]["selector"])
        ports = {port["name"]: port["containerPort"] for port in container(template)["ports"]}
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in ports
            if service["spec"].get("clusterIP") == "None":  # no translation: the address leads to the pod itself
                assert port["port"] == ports[port["targetPort"]]
    assert container(pod(variant, "sptune"))["ports"][0]["containerPort"] == settings_of(variant).port
    for policy in (one["spec"] for one in objects(variant) if one["kind"] == "NetworkPolicy"):
        rules = [*policy.get("ingress", ()), *policy.get("egress", ())]
        assert {port["port"] for rule in rules for port in rule["ports"]} <= {"http", 53}


def test_vllm_listens_where_its_service_points():
    template = pod("vllm", "vllm")
    assert int(option(template, "--port")) == container(template)["ports"][0]["containerPort"]


async def statuses(engine: BatchingEngine, settings: ServerSettings, paths: list[str]) -> list[int]:
    """What the real application answers a kubelet, which comes by the pod's address and has no key."""
    await engine.start()
    try:
        transport = httpx2.ASGITransport(make_app(engine, settings))
        async with httpx2.AsyncClient(transport=transport, base_url="http://10.1.2.3:8000") as client:
            return [(await client.get(path)).status_code for path in paths]
    finally:
        await engine.stop()


@pytest.mark.parametrize("variant", VARIANTS)
def test_probes_are_answered_without_a_key(variant: str, tiny_base: LoadedBase, tmp_path: Path):
    server = container(pod(variant, "sptune"))
    probes = [server[name]["httpGet"]["path"] for name in ("startupProbe", "readinessProbe", "livenessProbe")]
    assert probes == ["/health", "/ready", "/health"]
    keys = tmp_path / "keys"
    keys.write_text("key\n")
    settings = settings_of(variant).model_copy(update={"api_key_file": keys})
    answers = asyncio.run(statuses(BatchingEngine(tiny_base), settings, [*probes, "/v1/models", "/metrics"]))
    assert answers == [200, 200, 200, 401, 401]


@pytest.mark.parametrize("variant", VARIANTS)
def test_pods_are_given_the_time_to_drain(variant: str):
    template = pod(variant, "sptune")
    pause = container(template)["lifecycle"]["preStop"]["sleep"]["seconds"]
    to_stop = template["spec"]["terminationGracePeriodSeconds"] - pause - settings_of(variant).drain_seconds
    assert to_stop >= 10
    for vllm in selected(variant, {"app.kubernetes.io/name": "vllm"}):
        drain = int(option(vllm, "--shutdown-timeout"))
        assert vllm["spec"]["terminationGracePeriodSeconds"] >= drain + 10
        assert drain >= settings_of(variant).drain_seconds


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_the_settings_name_is_mounted(variant: str):
    template, settings = pod(variant, "sptune"), settings_of(variant)
    mounts = [Path(mount["mountPath"]) for mount in container(template)["volumeMounts"]]
    config = container(template)["args"][container(template)["args"].index("--config") + 1]
    base = [settings.base] if settings.base else []
    for path in (config, settings.api_key_file, *settings.adapters.values(), *base):
        assert any(Path(path).is_relative_to(mount) for mount in mounts), path
    if settings.base:
        vllm = pod("vllm", "vllm")
        assert container(vllm)["command"] == ["vllm", "serve", settings.base]
        assert "--enable-prompt-embeds" in container(vllm)["args"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_mount_has_its_volume_and_can_be_updated(variant: str):
    for template in pods(variant):
        volumes = [volume["name"] for volume in template["spec"]["volumes"]]
        mounts = container(template)["volumeMounts"]
        assert sorted(mount["name"] for mount in mounts) == sorted(volumes)
        assert not any("subPath" in mount for mount in mounts)  # keys could not be rotated
        claims = [volume.get("persistentVolumeClaim") for volume in template["spec"]["volumes"]]
        assert all(named(variant, "PersistentVolumeClaim", claim["claimName"]) for claim in claims if claim)


@pytest.mark.parametrize("variant", VARIANTS)
def test_pods_are_as_restricted_as_the_namespace_demands(variant: str):
    demands = named(variant, "Namespace", "sptune")["metadata"]["labels"]
    assert demands["pod-security.kubernetes.io/enforce"] == "restricted"
    [loader] = read_objects(KUBERNETES / "local" / "loader.yaml")
    for template in (*pods(variant), loader):
        spec, own = template["spec"], container(template)["securityContext"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert own == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not spec["automountServiceAccountToken"]
        assert container(template)["resources"]["limits"]["memory"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_service_sets_variables_that_are_settings(variant: str):
    assert not any(template["spec"]["enableServiceLinks"] for template in pods(variant))


def test_the_secret_that_is_shipped_lets_nobody_in(tmp_path: Path):
    [secret] = read_objects(KUBERNETES / "local" / "keys.yaml")
    file = settings_of("local").api_key_file
    assert file is not None
    (tmp_path / file.name).write_text(secret["stringData"][file.name])
    with pytest.raises(UsageError, match="holds no key"):
        KeyFile(tmp_path / file.name, option="api_key_file")
    names = [v["secret"]["secretName"] for v in pod("local", "sptune")["spec"]["volumes"] if "secret" in v]
    assert names == [secret["metadata"]["name"]]


def test_the_gateways_know_every_replica_that_may_be_started():
    stateful = named("vllm", "StatefulSet", "vllm")
    scaler = named("vllm", "HorizontalPodAutoscaler", "vllm")["spec"]
    port = container(pod("vllm", "vllm"))["ports"][0]["containerPort"]
    service = named("vllm", "Service", stateful["spec"]["serviceName"])
    assert service["spec"]["clusterIP"] == "None"
    names = [f"http://vllm-{i}.{service['metadata']['name']}:{port}" for i in range(scaler["maxReplicas"])]
    kind, _, urls = settings_of("vllm").engine.partition(":")
    assert (kind, parse_urls(urls)) == ("vllm", names)


def test_replicas_follow_metrics_that_the_server_has():
    scaler = named("vllm", "HorizontalPodAutoscaler", "vllm")["spec"]
    asked = {metric["object"]["metric"]["name"]: metric["object"] for metric in scaler["metrics"]}
    gauges = {metric.name for metric in Metrics(load).registry.collect() if metric.type == "gauge"}
    assert {"sptune_queue_waiting", "sptune_running"} == asked.keys() <= gauges
    for metric in asked.values():
        described = metric["describedObject"]
        assert named("vllm", described["kind"], described["name"])
        assert metric["target"]["type"] == "AverageValue"  # of all gateways together, for each replica
    [adapter] = read_objects(DEPLOY / "prometheus" / "adapter.yaml")
    [rule] = adapter["rules"]["custom"]
    [pattern] = re.findall(r'__name__=~"([^"]*)"', rule["seriesQuery"])
    assert {gauge for gauge in gauges if re.fullmatch(pattern, gauge)} == asked.keys()
    running = int(asked["sptune_running"]["target"]["averageValue"])
    assert running < int(option(pod("vllm", "vllm"), "--max-num-seqs"))
    most = settings_of("vllm").slots * named("vllm", "HorizontalPodAutoscaler", "sptune")["spec"]["minReplicas"]
    assert most >= running * scaler["maxReplicas"]  # else the slots end before the replicas do


@pytest.mark.parametrize("name", ["vllm", "sptune"])
def test_autoscalers_have_a_target_and_the_last_word_on_its_size(name: str):
    scaler = named("vllm", "HorizontalPodAutoscaler", name)["spec"]
    target = named("vllm", scaler["scaleTargetRef"]["kind"], scaler["scaleTargetRef"]["name"])
    assert "replicas" not in target["spec"]
    assert scaler["minReplicas"] >= 2
