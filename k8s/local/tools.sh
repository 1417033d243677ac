# Sourced by the scripts here: finds kind, kubectl, helm and Docker, and says which way is taken.
#
# The usual way is Docker with a registry. Where either is missing (SI_KIND=offline asks for it),
# tests/cluster/offline builds what is needed from Go modules and Debian packages.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"
offline=tests/cluster/offline
export KUBECONFIG=${SI_KUBECONFIG:-$root/.kind/kubeconfig}
if [[ -z ${SI_KIND:-} ]]; then
    docker info >/dev/null 2>&1 && SI_KIND=docker || SI_KIND=offline
fi
export SI_KIND # the scripts that this one calls take the same way
tool() {
    if [[ $SI_KIND == offline ]]; then
        "$offline/tool" "$1"
    else
        command -v "$1" || { echo "$1 is needed: install it, or set SI_KIND=offline" >&2; return 1; }
    fi
}
# Nothing is built on a disk that is too full, and no tool that the script does not need.
[[ $SI_KIND != offline || -z ${gigabytes:-} ]] || "$offline/space" "$gigabytes"
for name in ${needs:-kind kubectl helm}; do
    path=$(tool "$name")
    printf -v "$name" %s "$path" # $kind, $kubectl, $helm
done
if [[ $SI_KIND == offline ]]; then
    export DOCKER_HOST=unix://${XDG_CACHE_HOME:-$HOME/.cache}/si-ctl/docker/docker.sock
fi
