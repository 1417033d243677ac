# Sourced by the scripts here: finds kind, kubectl, helm and Docker, and says which way is taken.
#
# The usual way is Docker with a registry. Where either is missing (LOCAL_CLUSTER=offline asks for it),
# tests/cluster/offline builds what is needed from Go modules and Debian packages.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"
offline=tests/cluster/offline
export KUBECONFIG=${LOCAL_KUBECONFIG:-$root/.kind/kubeconfig}
if [[ -z ${LOCAL_CLUSTER:-} ]]; then
    docker info >/dev/null 2>&1 && LOCAL_CLUSTER=docker || LOCAL_CLUSTER=offline
fi
export LOCAL_CLUSTER # the scripts that this one calls take the same way
tool() {
    if [[ $LOCAL_CLUSTER == offline ]]; then
        "$offline/tool" "$1"
    else
        command -v "$1" || { echo "$1 is needed: install it, or set LOCAL_CLUSTER=offline" >&2; return 1; }
    fi
}
# Nothing is built where something else is missing, and no tool that the script does not need.
[[ $LOCAL_CLUSTER != offline || -z ${gigabytes:-} ]] || "$offline/needs" "$gigabytes"
for name in ${needs:-kind kubectl helm}; do
    path=$(tool "$name")
    printf -v "$name" %s "$path" # $kind, $kubectl, $helm
done
if [[ $LOCAL_CLUSTER == offline ]]; then
    export DOCKER_HOST=unix://${XDG_CACHE_HOME:-$HOME/.cache}/si-ctl/docker/docker.sock
fi
