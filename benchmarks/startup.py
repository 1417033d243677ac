"""Start-up: `si-ctl --help` against a bare typer program that prints its help.

python benchmarks/startup.py [--runs 15]
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BARE = """
import typer
app = typer.Typer()
@app.command()
def one(name: str = "x"): "Does one thing."
@app.command()
def two(name: str = "x"): "Does another."
app()
"""


def seconds(command: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / "bare.py"
        bare.write_text(BARE)
        ours = [str(Path(sys.executable).with_name("si-ctl")), "--help"]
        baseline = [sys.executable, str(bare), "--help"]
        pairs = [(seconds(ours), seconds(baseline)) for _ in range(runs + 1)][1:]
    print(f"si-ctl --help      {statistics.median(p[0] for p in pairs):.3f} s")
    print(f"bare typer program {statistics.median(p[1] for p in pairs):.3f} s")
    print(f"ratio              {statistics.median(a / b for a, b in pairs):.2f}")


if __name__ == "__main__":
    main()
