"""The manifests: valid for every Kubernetes we name, restricted, bounded, and wired to each other."""

from __future__ import annotations

import copy
from pathlib import Path
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
from k8s_manifests import OVERLAYS, ROOT, containers_of, named, of_kind, rendered, workload, workloads

from leanrec import __version__
from leanrec.config import load_settings
from leanrec.data.pseudonyms import KEY_FILE
from pipelines.placement import ROLLOUT_LABEL

VERSIONS = ("1.33", "1.34", "1.35", "1.36")
IMAGES = {"leanrec/serving-cpu", "leanrec/pipeline", "leanrec/gateway"}
LOCAL = "overlays/local"
CONTAINERS = [
    pytest.param(load, container, id=f"{folder}-{load.name}-{container['name']}")
    for folder in OVERLAYS
    for load in workloads(folder)
    for container in containers_of(load.pod)
]


@pytest.mark.parametrize("folder", OVERLAYS)
@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_keeps_the_strict_schema(folder: str, version: str):
    for manifest in rendered(folder):
        # The answer is the version whose schema was used: never an older one in its place.
        assert kubernetes_validate.validate(manifest, version, strict=True) == version


def test_the_schema_check_would_notice_a_misspelt_key():
    broken = copy.deepcopy(named(LOCAL, "Deployment", "triton"))
    broken["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readynessProbe"):
        kubernetes_validate.validate(broken, VERSIONS[-1], strict=True)


@pytest.mark.parametrize(("load", "container"), CONTAINERS)
def test_a_container_is_restricted(load, container):
    context = container["securityContext"]
    assert context["allowPrivilegeEscalation"] is False
    assert context["readOnlyRootFilesystem"] is True
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert load.pod["securityContext"]["runAsNonRoot"] is True
    assert load.pod["securityContext"]["runAsUser"] > 0
    assert load.pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert load.pod["automountServiceAccountToken"] is False
    assert load.pod["serviceAccountName"] == "leanrec"
    assert not {"hostNetwork", "hostPID", "hostIPC"} & load.pod.keys()
    assert not any("hostPath" in volume for volume in load.pod["volumes"]) if "volumes" in load.pod else True


@pytest.mark.parametrize(("load", "container"), CONTAINERS)
def test_a_container_is_bounded(load, container):
    for side in ("requests", "limits"):
        assert container["resources"][side].keys() == {"cpu", "memory", "ephemeral-storage"}
    for volume in load.pod.get("volumes", ()):
        if "emptyDir" in volume:
            assert volume["emptyDir"]["sizeLimit"]


@pytest.mark.parametrize(("load", "container"), CONTAINERS)
def test_every_mount_names_a_volume(load, container):
    claims = {t["metadata"]["name"] for t in load.manifest["spec"].get("volumeClaimTemplates", ())}
    volumes = {volume["name"] for volume in load.pod.get("volumes", ())} | claims
    assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


def test_the_base_holds_no_fact_of_an_environment():
    for manifest in rendered("base"):
        assert "namespace" not in manifest["metadata"]
    assert {c["image"] for load in workloads("base") for c in containers_of(load.pod)} == IMAGES


def test_the_local_overlay_runs_the_images_that_are_built_here():
    images = {c["image"] for load in workloads(LOCAL) for c in containers_of(load.pod)}
    assert images == {f"localhost/{name}:{__version__}" for name in IMAGES}
    pulls = {c["imagePullPolicy"] for load in workloads(LOCAL) for c in containers_of(load.pod)}
    assert pulls == {"IfNotPresent"}


def test_the_local_overlay_lives_in_a_namespace_of_its_own_that_enforces_restricted_pods():
    (namespace,) = of_kind(LOCAL, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for manifest in rendered(LOCAL):
        if manifest is not namespace:
            assert manifest["metadata"]["namespace"] == namespace["metadata"]["name"] != "default"


def test_everything_that_a_pod_mounts_is_in_the_manifests():
    for load in workloads(LOCAL):
        for volume in load.pod.get("volumes", ()):
            if "persistentVolumeClaim" in volume:
                assert named(LOCAL, "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"])
            if "configMap" in volume:
                assert named(LOCAL, "ConfigMap", volume["configMap"]["name"])


def test_services_and_budgets_select_the_pods_they_are_for():
    for kind in ("Service", "PodDisruptionBudget"):
        for manifest in of_kind(LOCAL, kind):
            selector = manifest["spec"]["selector"]
            wanted = selector.get("matchLabels", selector)
            load = workload(LOCAL, manifest["metadata"]["labels"]["app.kubernetes.io/name"])
            assert wanted.items() <= load.labels.items()


def test_service_ports_are_ports_of_the_container():
    for service in of_kind(LOCAL, "Service"):
        load = workload(LOCAL, service["metadata"]["labels"]["app.kubernetes.io/name"])
        (container,) = load.pod["containers"]
        offered = {port["name"]: port["containerPort"] for port in container["ports"]}
        for port in service["spec"]["ports"]:
            assert offered[port["targetPort"]] == port["port"]


def test_the_gateways_find_every_ready_triton_by_one_name():
    (address,) = load_settings(ROOT / "k8s" / LOCAL / "run.yaml").gateway.triton
    name, _, port = address.partition(":")
    service = named(LOCAL, "Service", name)["spec"]
    assert service["clusterIP"] == "None"
    assert "publishNotReadyAddresses" not in service
    assert int(port) in [entry["port"] for entry in service["ports"]]


def test_a_rollout_reads_the_counters_of_every_gateway_by_one_name():
    (url,) = load_settings(ROOT / "k8s" / LOCAL / "run.yaml").rollout.gateways
    found = urlsplit(url)
    service = named(LOCAL, "Service", found.hostname)["spec"]
    assert service["clusterIP"] == "None"
    assert service["selector"] == {"app.kubernetes.io/name": "gateway"}
    assert found.port in [entry["port"] for entry in service["ports"]]


def test_a_rollout_may_ask_gateways_tritons_and_names_and_no_more():
    policy = named(LOCAL, "NetworkPolicy", "rollout-controller-out")["spec"]
    assert policy["podSelector"]["matchLabels"] == {ROLLOUT_LABEL: "true"}
    asked = [rule["to"][0].get("podSelector", {}).get("matchLabels") for rule in policy["egress"]]
    assert asked == [
        {"app.kubernetes.io/name": "gateway"},
        {"app.kubernetes.io/name": "triton"},
        None,  # the cluster's DNS
    ]
    (rule,) = named(LOCAL, "NetworkPolicy", "gateway-clients-to-gateway")["spec"]["ingress"]
    assert {"podSelector": policy["podSelector"]} in rule["from"]


def test_traffic_is_denied_unless_a_policy_allows_it():
    everything = named(LOCAL, "NetworkPolicy", "default-deny")["spec"]
    assert everything == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    (rule,) = named(LOCAL, "NetworkPolicy", "redis-clients-to-redis")["spec"]["ingress"]
    (client,) = rule["from"]
    wanted = client["podSelector"]["matchLabels"]
    assert [load.name for load in workloads(LOCAL) if wanted.items() <= load.labels.items()] == [
        "gateway",
        "release",
    ]


def test_the_release_job_and_triton_share_the_model_repository():
    job, triton = workload(LOCAL, "release"), workload(LOCAL, "triton")
    settings = load_settings(ROOT / "k8s" / LOCAL / "run.yaml")
    claims = {}
    for load in (job, triton):
        (container,) = load.pod["containers"]
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        sources = {volume["name"]: volume for volume in load.pod["volumes"]}
        claims[load.name] = sources[mounts[settings.release.repository]]["persistentVolumeClaim"]
    assert claims["release"]["claimName"] == claims["triton"]["claimName"]
    assert settings.feature_store.redis == "redis:6379"


def test_the_gateway_reads_releases_and_keys_and_writes_events_alone():
    gateway, job = workload(LOCAL, "gateway"), workload(LOCAL, "release")
    settings = load_settings(ROOT / "k8s" / LOCAL / "run.yaml")
    (container,) = gateway.pod["containers"]
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    writable = {path for path, mount in mounts.items() if not mount.get("readOnly")}
    assert writable == {settings.gateway.event_log, "/tmp"}
    assert settings.release.repository in mounts
    (keys,) = [v["value"] for v in container["env"] if v["name"] == "LEANREC_GATEWAY_KEYS"]
    assert str(Path(keys).parent) in mounts
    # Both find the one pseudonym key where the library looks for it.
    for load in (gateway, job):
        (one,) = load.pod["containers"]
        volumes = {v["secret"]["secretName"]: v["name"] for v in load.pod["volumes"] if "secret" in v}
        mounted = {mount["name"]: mount["mountPath"] for mount in one["volumeMounts"]}
        place = mounted[volumes["pseudonym-key"]]
        assert Path(place) == Path(one["workingDir"]) / KEY_FILE.parent


def test_the_gateway_may_ask_triton_redis_and_dns_and_is_asked_by_labelled_clients_only():
    gateway = workload(LOCAL, "gateway")
    policies = {
        manifest["metadata"]["name"]: manifest["spec"]
        for manifest in of_kind(LOCAL, "NetworkPolicy")
        if manifest["spec"]["podSelector"].get("matchLabels", {}).items() <= gateway.labels.items()
    }
    assert policies.keys() == {
        "default-deny",
        "redis-clients-out",
        "gateway-to-triton",
        "gateway-clients-to-gateway",
    }
    (out,) = policies["gateway-to-triton"]["egress"]
    assert out["to"][0]["podSelector"]["matchLabels"].items() <= workload(LOCAL, "triton").labels.items()
    (into,) = policies["gateway-clients-to-gateway"]["ingress"]
    assert all("matchLabels" in next(iter(peer.values())) for peer in into["from"])


def test_the_gateway_has_time_to_drain():
    gateway = workload(LOCAL, "gateway")
    (container,) = gateway.pod["containers"]
    settings = load_settings(ROOT / "k8s" / LOCAL / "run.yaml")
    pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pause + settings.gateway.drain_s < gateway.pod["terminationGracePeriodSeconds"]


def test_the_local_run_is_the_demo_under_the_addresses_of_the_cluster():
    demo, local = (load_settings(ROOT / path) for path in ("configs/demo.yaml", f"k8s/{LOCAL}/run.yaml"))
    changed = {name for name in type(demo).model_fields if getattr(demo, name) != getattr(local, name)}
    assert changed == {"feature_store", "release", "rollout", "gateway"}


def test_a_new_cluster_serves_only_after_its_first_release():
    (container,) = workload(LOCAL, "triton").pod["containers"]
    assert "--allow-empty" in container["args"]
    assert container["startupProbe"]["httpGet"]["path"] == "/v2/health/live"
    assert container["readinessProbe"]["httpGet"]["path"] == "/v2/models/recommender/ready"
    assert container["livenessProbe"]["httpGet"]["path"] == "/v2/health/live"
