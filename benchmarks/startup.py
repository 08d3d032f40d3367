"""What the seconds between typing a command and its first training step, or its error, are spent on.

    python benchmarks/startup.py [starts] [key=value ...]

Starts `python train.py` in a process of its own, again and again, until its first step is done; then with mistakes in
the command; then once more with Python's own profile of imports. The first start finds an empty cache and no store, so
that the classifier is trained and the store's tables are made; the later ones find both. Shown are medians of `starts`
later starts, in seconds by the clock and of the processor (all threads). Defaults: 7, data=digits. Prints Markdown.
"""

import collections
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MISTAKES = (
    "--help",
    "stpes=10",
    "model=wgna",
    "batch_size=-3",
    "model.generator.widht=64",
    "data=image_folder data.root=/nowhere",
    "data=mnist data.root=/nowhere data.download=false",
    "tracking.uri=ftp://host",
)


class Marks:
    """When each part of a start was done: seconds since the process began, by the clock and of the processor."""

    def __init__(self) -> None:
        self.times: dict[str, tuple[float, float]] = {}

    def set(self, name: str) -> None:
        """Now; a part that comes in several pieces counts to the last."""
        began = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        self.times[name] = (time.clock_gettime(time.CLOCK_BOOTTIME) - began, time.process_time())


def start(report: str) -> None:
    """Run train.py's command line in this process until its first step, and write its marks."""
    from gantry.commands import train as command
    from gantry.training import run as program

    marks = Marks()

    def after(name: str, call: Any) -> Any:
        def marked(*args: Any, **kwargs: Any) -> Any:
            result = call(*args, **kwargs)
            marks.set(name)
            return result

        return marked

    lean_imports = program.lean_imports

    @contextlib.contextmanager
    def imports() -> Iterator[None]:
        with lean_imports():
            import torch

            del torch
            marks.set("importing torch")
            import pytorch_lightning

            del pytorch_lightning
            marks.set("importing Lightning and torch._dynamo")
            yield

    def train(*args: Any) -> Any:
        marks.set("Python, Hydra, the config checked")
        return whole(*args, watching=[watcher()])

    def watcher() -> Any:
        with imports():
            from pytorch_lightning import Callback

        class FirstStep(Callback):
            def on_train_batch_start(self, *args: Any) -> None:
                marks.set("measuring before the first step")

            def on_train_batch_end(self, *args: Any) -> None:
                marks.set("the first step")
                Path(report).write_text(json.dumps(marks.times))
                os._exit(0)

        return FirstStep()

    whole, command.train = command.train, train
    program.build_data = after("the data", program.build_data)
    program._quiet = after("importing the rest", program._quiet)
    program.parameters = after("building the networks", program.parameters)
    program.open_tracker = after("the extractor, the real images' features, the run's record", program.open_tracker)
    command.main()


def timed(arguments: list[str], folder: Path, cache: Path) -> dict[str, tuple[float, float]]:
    """A start's marks."""
    (report := folder / "marks.json").unlink(missing_ok=True)
    environment = os.environ | {"GANTRY_CACHE": str(cache), "GANTRY_STARTUP": str(report)}
    command = [sys.executable, __file__, f"paths.root={folder}", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if not report.exists():
        sys.exit(f"{' '.join(arguments)} took no step:\n{done.stderr}")
    return {name: tuple(times) for name, times in json.loads(report.read_text()).items()}


def table(begun: dict[str, list[dict[str, tuple[float, float]]]]) -> None:
    """Print what each part took, a pair of columns for each kind of start."""
    print("| | " + " | ".join(f"{kind}, s | of the processor" for kind in begun) + " |")
    print("|" + " --- |" * (1 + 2 * len(begun)))
    names = list(next(iter(begun.values()))[0])
    for name, before in [*zip(names, [None, *names], strict=False), ("**all**", None)]:
        cells = []
        for starts in begun.values():
            for i in (0, 1):
                last = name if name in names else names[-1]
                taken = [marks[last][i] - (marks[before][i] if before else 0.0) for marks in starts]
                cells.append(f"{statistics.median(taken):.2f}")
        print(f"| {name} | {' | '.join(cells)} |")


def imports(arguments: list[str], folder: Path, cache: Path) -> list[tuple[str, float]]:
    """Seconds that the modules of each package take to execute, the most first, until a run of one step has ended."""
    command = [sys.executable, "-X", "importtime", str(ROOT / "train.py"), f"paths.root={folder}", *arguments]
    environment = os.environ | {"GANTRY_CACHE": str(cache)}
    done = subprocess.run(
        [*command, "steps=1", "tracking=none"], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    seconds: collections.Counter[str] = collections.Counter()
    for own, name in re.findall(r"^import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)$", done.stderr, re.MULTILINE):
        parts = name.split(".")
        seconds["torch._dynamo" if parts[:2] == ["torch", "_dynamo"] else parts[0]] += int(own) / 1e6
    return [*seconds.most_common(10), ("all", seconds.total())]


def main(arguments: list[str]) -> None:
    """Measure and print."""
    from step import machine

    plain = [text for text in arguments if "=" not in text]
    overrides = [text for text in arguments if "=" in text] or ["data=digits"]
    count = int(plain[0]) if plain else 7
    print(f"`python benchmarks/startup.py {' '.join(arguments)}`\n".replace(" `", "`"))
    print(f"{machine()}.\n")
    with tempfile.TemporaryDirectory() as name:
        folder, cache = Path(name), Path(name) / "cache"
        first = [timed(overrides, folder, cache)]
        begun: dict[str, list[dict[str, tuple[float, float]]]] = {"first": first, "later": [], "tracking=none": []}
        for _ in range(count):
            begun["later"].append(timed(overrides, folder, cache))
            begun["tracking=none"].append(timed([*overrides, "tracking=none"], folder, cache))
        table(begun)
        print("\n| typed after `python train.py` | s |\n| --- | --- |")
        for mistake in MISTAKES:
            taken = []
            for _ in range(count):
                began = time.perf_counter()
                subprocess.run(
                    [sys.executable, str(ROOT / "train.py"), *mistake.split()],
                    cwd=folder,
                    env=os.environ | {"GANTRY_CACHE": str(cache)},
                    capture_output=True,
                    check=False,
                )
                taken.append(time.perf_counter() - began)
            print(f"| `{mistake}` | {statistics.median(taken):.2f} |")
        print("\n| imported, with `-X importtime` | s of its own |\n| --- | --- |")
        for package, seconds in imports(overrides, folder, cache):
            print(f"| {package} | {seconds:.2f} |")


if __name__ == "__main__":
    if "GANTRY_STARTUP" in os.environ:
        sys.argv[0] = str(ROOT / "train.py")
        start(os.environ.pop("GANTRY_STARTUP"))
    else:
        main(sys.argv[1:])
