"""Pack what a GPU machine without a network lacks to run tests/gpu, in the folder .gpu-pack.

    make gpu-pack

Such a machine has Python 3.12 with torch, torchvision, triton, peft, accelerate, pyarrow, pytest
and what these need. The pack holds the rest, at the versions and hashes of
requirements/engines-gpu.txt: transformers, DeepSpeed without compiled operations, and vLLM cut down
to one GPU architecture and dense models. About 50 MiB, three minutes, and 1.5 GB of scratch space.
"""

import argparse
import lzma
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from tests.gpu.offline.fatbin import prune

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
REQUIREMENTS = ROOT / "requirements" / "engines-gpu.txt"
OURS = """
annotated-types antlr4-python3-runtime hjson latex2sympy2-extended liger-kernel math-verify mpmath
nvidia-ml-py psutil pydantic pydantic-core tenacity transformers typing-inspection deepspeed
"""
FOR_VLLM = """
apache-tvm-ffi cachetools cbor2 fastapi httpx2 llguidance msgspec openai oss-harmony
partial-json-parser pybase64 pyzmq sniffio starlette xgrammar vllm
"""
# Of vLLM: what dense models on one GPU do not need.
UNNEEDED = (
    *("vllm/vllm-rs", "vllm/benchmarks", "vllm/third_party/deep_gemm"),
    *("vllm/third_party/fmha_sm100", "vllm/entrypoints/serve/instrumentator/static"),
)
NEEDED = ("vllm/_C_stable_libtorch.abi3.so", "vllm/vllm_flash_attn/_vllm_fa3_C.abi3.so")
MOST = 64 << 20  # bytes that may travel, the tree included


def pins(text: str, names: list[str]) -> str:
    """The lines of a hashed requirement file for some packages, hashes included.

    Raises:
        SystemExit: if a package is not in the file.
    """
    found = {
        match[1]: match[0].rstrip() + "\n"
        for match in re.finditer(r"^([a-z0-9.-]+)==.*(?:\n    .*)*", text, re.MULTILINE)
    }
    missing = [name for name in names if name not in found]
    if missing:
        raise SystemExit(f"{REQUIREMENTS.name} does not pin {', '.join(missing)}")
    return "".join(found[name] for name in names)


def install(uv: Path, site: Path, scratch: Path) -> None:
    """Unpack the pinned packages for Linux and Python 3.12 into `site`, whatever runs this."""
    subset = scratch / "requirements.txt"
    subset.write_text(pins(REQUIREMENTS.read_text(), (OURS + FOR_VLLM).split()))
    words = ["--target", str(site), "--no-deps", "--require-hashes", "--python-version", "3.12"]
    words += ["--python-platform", "x86_64-manylinux_2_35", "-r", str(subset)]
    # Without compiled operations DeepSpeed is pure Python, and builds without torch.
    environment = os.environ | {"DS_BUILD_OPS": "0"}
    subprocess.run([uv, "pip", "install", "--quiet", *words], check=True, env=environment)


def cut(site: Path, libraries: Path, architecture: int) -> None:
    """Remove from vLLM what is not needed; the two libraries that are move to `libraries`, without
    machine code for other GPUs."""
    for name in UNNEEDED:
        shutil.rmtree(site / name, ignore_errors=True)
        (site / name).unlink(missing_ok=True)
    for name in NEEDED:
        target = libraries / name
        target.parent.mkdir(parents=True, exist_ok=True)
        data = bytearray((site / name).read_bytes())
        print(f"{name}: {prune(data, {architecture}) >> 20} MiB of other GPUs' code blanked")
        target.write_bytes(data)
    for library in (site / "vllm").rglob("*.so"):
        library.unlink()
    shutil.rmtree(site / "bin", ignore_errors=True)


def archive(folder: Path, path: Path) -> None:
    """A folder's files as a compressed archive, in the order of their names."""
    with lzma.open(path, "wb", preset=6) as file, tarfile.open(fileobj=file, mode="w") as tar:
        for each in sorted(folder.rglob("*")):
            if each.is_file() and "__pycache__" not in each.parts:
                tar.add(each, each.relative_to(folder).as_posix())


def main() -> None:
    parser = argparse.ArgumentParser(description="Pack what an offline GPU machine lacks.")
    parser.add_argument("--uv", type=Path, default=ROOT / ".make" / "uv" / "bin" / "uv")
    parser.add_argument("--architecture", type=int, default=90, help="90: H100 and H200")
    options = parser.parse_args()
    out = ROOT / ".gpu-pack"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    with tempfile.TemporaryDirectory(prefix="gpu-pack-") as folder:
        scratch = Path(folder)
        site, libraries = scratch / "site", scratch / "libraries"
        install(options.uv, site, scratch)
        cut(site, libraries, options.architecture)
        archive(site, out / "python.tar.xz")
        archive(libraries, out / "libraries.tar.xz")
    shutil.copy(HERE / "on_device.sh", out)
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
    )
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    tree = sum(path.stat().st_size for path in files if path.is_file())
    pack = sum(path.stat().st_size for path in out.iterdir())
    print(f"tree {tree / 2**20:.1f} MiB + .gpu-pack {pack / 2**20:.1f} MiB")
    if tree + pack > MOST:
        sys.exit(f"more than {MOST >> 20} MiB: it may not travel")


if __name__ == "__main__":
    main()
