"""Fills a Job's pod template from the place's settings for a kind of pods."""

from collections.abc import Mapping
from typing import Any

from si.clusters.kubernetes.patch import merge, unrestricted
from si.config.place import Kubernetes, Pods
from si.errors import RecipeError

Manifest = dict[str, Any]
CA = "/etc/si-ctl/ca"


def variables(given: Mapping[str, str]) -> list[dict[str, Any]]:
    """Environment variables as a container has them."""
    return [{"name": name, "value": value} for name, value in given.items()]


def fill(job: Manifest, kubernetes: Kubernetes, pods: Pods) -> None:
    """Fill in what the place sets of a kind of pods, but resources and the patch."""
    for metadata in (job["metadata"], job["spec"]["template"]["metadata"]):
        # Ours decide which policies and watches see a pod.
        metadata["labels"] = {**pods.labels, **metadata.get("labels", {})}
        if pods.annotations:
            metadata["annotations"] = {**pods.annotations, **metadata.get("annotations", {})}
    if pods.active_deadline:
        job["spec"]["activeDeadlineSeconds"] = pods.active_deadline
    template = job["spec"]["template"]["spec"]
    container = template["containers"][0]
    for field, value in (
        ("nodeSelector", pods.node_selector),
        ("tolerations", pods.tolerations),
        ("priorityClassName", pods.priority_class),
        ("runtimeClassName", pods.runtime_class),
        ("schedulerName", pods.scheduler),
        ("affinity", pods.affinity),
        ("topologySpreadConstraints", pods.topology_spread),
        ("imagePullSecrets", [{"name": secret} for secret in kubernetes.pull_secrets]),
    ):
        if value:
            template[field] = value
    template["terminationGracePeriodSeconds"] = pods.grace_seconds
    container["image"] = pods.image
    container["imagePullPolicy"] = kubernetes.pull_policy
    container["env"] += variables(pods.env)
    _run_as(template, kubernetes.user)
    _credentials(container, kubernetes)
    container["envFrom"] = [*(container.get("envFrom") or ()), *pods.env_from]
    template["volumes"] = [*template["volumes"], *pods.volumes]
    container["volumeMounts"] = [*container["volumeMounts"], *pods.mounts]
    if kubernetes.ca_secret:
        volume = {"name": "ca", "secret": {"secretName": kubernetes.ca_secret}}
        template["volumes"].append(volume)
        container["volumeMounts"].append({"name": "ca", "mountPath": CA, "readOnly": True})
        names = ("AWS_CA_BUNDLE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
        container["env"] += variables(dict.fromkeys(names, f"{CA}/ca.crt"))


def _run_as(template: Manifest, user: int | None) -> None:
    """Run as this user and group, or as those that the platform assigns."""
    for field in ("runAsUser", "runAsGroup", "fsGroup"):
        if user is None:
            template["securityContext"].pop(field, None)
        else:
            template["securityContext"][field] = user


def _credentials(container: Manifest, kubernetes: Kubernetes) -> None:
    """Give a container the bucket's credentials, by reference."""
    secret = kubernetes.secret
    if not secret:
        return
    if not kubernetes.secret_keys:
        container["envFrom"] = [{"secretRef": {"name": secret}}]
    for name, key in kubernetes.secret_keys.items():
        reference = {"secretKeyRef": {"name": secret, "key": key}}
        container["env"].append({"name": name, "valueFrom": reference})


def resources(container: Manifest, amounts: Mapping[Any, Any], scratch: str = "") -> None:
    """Set a container's resources; a limited scratch volume is requested as ephemeral storage."""
    container["resources"] = {kind: dict(of) for kind, of in amounts.items()}
    if scratch:
        container["resources"].setdefault("requests", {}).setdefault("ephemeral-storage", scratch)


def limit_scratch(template: Manifest, scratch: str) -> None:
    """Limit the size of the scratch volume."""
    for volume in template["volumes"]:
        if volume["name"] == "scratch" and scratch:
            volume["emptyDir"]["sizeLimit"] = scratch


def patched(job: Manifest, kubernetes: Kubernetes, kind: str, patch: Mapping[str, Any]) -> None:
    """Apply the place's patch to a Job's pod template.

    Raises:
        RecipeError: if it is not a pod template, or if it or a volume of the place lifts a
            restriction without `allow_unrestricted`.
    """
    before = job["spec"]["template"]
    try:
        if unknown := patch.keys() - {"metadata", "spec"}:
            raise ValueError(f"unknown key {min(unknown)}; known: metadata, spec")
        after = merge(before, patch)
        after["metadata"]["labels"] |= before["metadata"]["labels"]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RecipeError(
            f"place.kubernetes.{kind}.pod is not a patch of a pod template",
            str(error),
            "For example: {spec: {hostAliases: [{ip: 10.0.0.1, hostnames: [hub]}]}}",
        ) from error
    lifted = sorted(set(unrestricted(after, before)))
    if lifted and not kubernetes.allow_unrestricted:
        raise RecipeError(
            f"The pods of {kind} would not meet the restricted Pod Security Standard",
            "\n".join(f"place.kubernetes.{kind}: {field}" for field in lifted),
            (
                "Remove it from the chart's values.",
                "Or allow it: place.kubernetes.allow_unrestricted: true. The namespace must allow "
                "it too.",
            ),
        )
    job["spec"]["template"] = after
