"""Kubernetes' strategic merge of a patch into a pod template, and what it must not change."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

# Lists whose items are merged by a key; all others are replaced (k8s.io/api, patchMergeKey).
KEYS = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "volumes": "name",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
    "resourceClaims": "name",
    "schedulingGates": "name",
    "env": "name",
    "ports": "containerPort",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
}
HOST = ("hostNetwork", "hostPID", "hostIPC")
# Sources of a volume that `restricted` takes.
SOURCES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim",
    "projected", "secret",
}  # fmt: skip


def merge(base: Any, patch: Any) -> Any:
    """A new mapping: `base` with a strategic merge patch applied.

    Null removes a key; `$patch: replace` replaces a mapping, and `$patch: delete` in an item of a
    list removes that item.
    """
    if not isinstance(base, Mapping) or not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    if patch.get("$patch") == "replace":
        return {key: copy.deepcopy(value) for key, value in patch.items() if key != "$patch"}
    made = {key: copy.deepcopy(value) for key, value in base.items()}
    for key, value in patch.items():
        if value is None:
            made.pop(key, None)
        elif key in KEYS and isinstance(value, list):
            made[key] = _merge_list(made.get(key) or [], value, KEYS[key])
        else:
            made[key] = merge(made.get(key, {}), value)
    return made


def _merge_list(base: list[Any], patch: list[Any], key: str) -> list[Any]:
    made = {item.get(key): item for item in base}
    for item in patch:
        name = item.get(key)
        if item.get("$patch") == "delete":
            made.pop(name, None)
        else:
            made[name] = merge(made.get(name, {}), item)
    return list(made.values())


def unrestricted(template: Mapping[str, Any], original: Mapping[str, Any]) -> Iterator[str]:
    """What a patched pod template has that the `restricted` Pod Security Standard refuses, and
    whether it changes the pod's rights in the cluster.

    Args:
        original: the template before the patch.
    """
    spec, before = template.get("spec", {}), original["spec"]
    for field in HOST:
        if spec.get(field):
            yield f"spec.{field}"
    for field in ("serviceAccountName", "serviceAccount", "automountServiceAccountToken"):
        if spec.get(field) != before.get(field):
            yield f"spec.{field}"
    context = spec.get("securityContext") or {}
    yield from _unrestricted_user(context, "spec.securityContext")
    if context.get("sysctls"):
        yield "spec.securityContext.sysctls"
    for volume in spec.get("volumes") or ():
        for source in volume.keys() - {"name"} - SOURCES:
            yield f"spec.volumes[{volume.get('name')}].{source}"
    for kind in ("containers", "initContainers", "ephemeralContainers"):
        for container in spec.get(kind) or ():
            at = f"spec.{kind}[{container.get('name')}]"
            yield from _unrestricted_container(container, context, at)


def _unrestricted_user(context: Mapping[str, Any], at: str) -> Iterator[str]:
    if context.get("runAsNonRoot") is False:
        yield f"{at}.runAsNonRoot"
    if context.get("runAsUser") == 0:
        yield f"{at}.runAsUser"
    profile = (context.get("seccompProfile") or {}).get("type")
    if profile not in (None, "RuntimeDefault", "Localhost"):
        yield f"{at}.seccompProfile"
    options = context.get("seLinuxOptions") or {}
    if options.get("user") or options.get("role"):
        yield f"{at}.seLinuxOptions"
    if (context.get("appArmorProfile") or {}).get("type") == "Unconfined":
        yield f"{at}.appArmorProfile"


def _unrestricted_container(
    container: Mapping[str, Any], pod: Mapping[str, Any], at: str
) -> Iterator[str]:
    context = container.get("securityContext") or {}
    yield from _unrestricted_user(context, f"{at}.securityContext")
    if not context.get("runAsNonRoot", pod.get("runAsNonRoot")):
        yield f"{at}.securityContext.runAsNonRoot"
    if not (context.get("seccompProfile") or pod.get("seccompProfile")):
        yield f"{at}.securityContext.seccompProfile"
    if context.get("privileged"):
        yield f"{at}.securityContext.privileged"
    if context.get("allowPrivilegeEscalation") is not False:
        yield f"{at}.securityContext.allowPrivilegeEscalation"
    capabilities = context.get("capabilities") or {}
    if "ALL" not in (capabilities.get("drop") or ()):
        yield f"{at}.securityContext.capabilities.drop"
    if set(capabilities.get("add") or ()) - {"NET_BIND_SERVICE"}:
        yield f"{at}.securityContext.capabilities.add"
    if context.get("procMount", "Default") != "Default":
        yield f"{at}.securityContext.procMount"
    for port in container.get("ports") or ():
        if port.get("hostPort"):
            yield f"{at}.ports.hostPort"
