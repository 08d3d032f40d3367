"""What a sweep adds between two jobs: from one job's end to the next one's first training step, against the start of a
single run, from the command to its first training step. Rounds are interleaved; the medians' ratio is the result.

    python benchmarks/scheduling.py [rounds]
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
JOBS = 4
OPTIONS = ["model=dcgan", "steps=2", "log_every=1", "batch_size=16", "metrics.n_generated=64"]


def first_step(folder: Path) -> float:
    """When the run in `folder` logged its first training step, in seconds since 1970."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return next(line["time"] for line in lines if line["step"] == 1 and "loss/generator" in line)


def single(folder: Path) -> float:
    """Seconds from typing `python train.py` to its first training step."""
    began = time.time()
    subprocess.run(
        [sys.executable, ROOT / "train.py", *OPTIONS, f"hydra.run.dir={folder}/run"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return first_step(folder / "run") - began


def gaps(folder: Path) -> list[float]:
    """Seconds from each job's end, as the sweep tells it, to the next job's first training step."""
    seeds = ",".join(map(str, range(JOBS)))
    command = [sys.executable, ROOT / "train.py", "-m", *OPTIONS, f"seed={seeds}", f"hydra.sweep.dir={folder}/sweep"]
    ends = []
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as sweep:
        assert sweep.stdout is not None
        for line in sweep.stdout:
            if ": FINISHED after" in line:
                ends.append(time.time())
    starts = [first_step(path) for path in sorted(folder.glob("sweep/[0-9]_*"))]
    return [start - end for end, start in zip(ends[:-1], starts[1:], strict=True)]


def main(rounds: int) -> None:
    """Measure and print."""
    alone, between = [], []
    with tempfile.TemporaryDirectory() as root:
        single(Path(root))  # the classifier, the caches
        for number in range(rounds):
            folder = Path(root) / str(number)
            folder.mkdir()
            alone.append(single(folder))
            between += gaps(folder)
    for name, values in (("single start", alone), ("between jobs", between)):
        span = f"{min(values):.2f} to {max(values):.2f}"
        print(f"{name}: median {statistics.median(values):.2f} s of {len(values)} ({span})")
    print(f"ratio {statistics.median(between) / statistics.median(alone):.3f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
