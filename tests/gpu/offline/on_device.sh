#!/bin/bash
# On a GPU machine without a network, in the repository's root, after `make gpu-pack` elsewhere:
#     bash .gpu-pack/on_device.sh train | sample | loop | PYTEST ARGUMENTS
# Each call takes a few minutes; what it prints is also added to $OUT/log.txt (default: /tmp).
set -u
cp "$0" /tmp/on_device.sh 2>/dev/null || true  # for the next call, should .gpu-pack stay behind
machine=$(python3 -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')

if [[ ! -e /tmp/v/ready ]]; then
    python3 - <<'PYTHON'
import glob, tarfile

for name in sorted(glob.glob(".gpu-pack/*.tar.xz")):
    tarfile.open(name).extractall("/tmp/site", filter="fully_trusted")
PYTHON
    python3 -m venv --without-pip /tmp/v
    site=$(/tmp/v/bin/python3 -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
    # The pack comes first, then this tree, then what the machine has.
    printf '%s\n' /tmp/site "$PWD" "$machine" > "$site/all.pth"
    printf '#!/tmp/v/bin/python3\nfrom si.cli import main\nmain()\n' > /tmp/v/bin/si-ctl
    chmod +x /tmp/v/bin/si-ctl
    touch /tmp/v/ready
fi

# torch 2.11's variable-length kernel has no enable_gqa, which 2.13 has: in this copy of the tree
# alone, give it as many keys as queries.
python3 - <<'PYTHON'
import inspect
import pathlib

from torch.nn.attention.varlen import varlen_attn

path = next(pathlib.Path("si").rglob("packing.py"))
text = path.read_text()
if "enable_gqa" not in inspect.signature(varlen_attn).parameters and "repeat_interleave" not in text:
    line = (
        "        q, k, v = (t[0].transpose(0, 1).to(half).contiguous() for t in (query, key, value))\n"
    )
    repeat = "        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))\n"
    argument = "            enable_gqa=grouped,\n"
    if text.count(line) != 1 or text.count(argument) != 1:
        raise SystemExit(f"{path} has changed: packing fails with this torch; adapt on_device.sh")
    path.write_text(text.replace(line, line + repeat).replace(argument, ""))
PYTHON

# vLLM 0.33 compiles for torch 2.14; compiling under another torch is untried.
export SICTL_VLLM_ENFORCE_EAGER=${SICTL_VLLM_ENFORCE_EAGER:-true}
export OMP_WAIT_POLICY=PASSIVE TMPDIR=/tmp PYTHONUNBUFFERED=1
export VLLM_CACHE_ROOT=/tmp/vllm TRITON_CACHE_DIR=/tmp/triton
/tmp/v/bin/python3 - 2>&1 <<'PYTHON' | tail -n 1
import deepspeed, peft, torch, transformers, vllm

versions = [f"{m.__name__} {m.__version__}" for m in (torch, transformers, vllm, deepspeed, peft)]
print(", ".join([*versions, torch.cuda.get_device_name()]))
PYTHON

case "${1:-}" in
    train) set -- tests/gpu/test_training.py -k "other_ways or more2 or more0" ;;
    sample) set -- tests/gpu/test_sampling.py ;;
    loop) set -- tests/gpu/test_training.py -k tiny_loop ;;
esac
exec /tmp/v/bin/python3 -m pytest -m gpu -s -rs -p no:cacheprovider --durations=0 "$@" 2>&1 |
    tee -a "${OUT:-/tmp}/log.txt"
