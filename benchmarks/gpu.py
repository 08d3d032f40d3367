"""Checks and measures on one GPU what Gantry promises there, in under eight minutes.

    PYTHONPATH=src python benchmarks/gpu.py [parts] [seconds] [before=<another checkout>] [longer=1] [only=<cases>]

It needs torch, Lightning, torchmetrics and numpy, and three packages of pure Python: hydra-core, omegaconf and
antlr4-python3-runtime 4.9. The part `tests` needs pytest and rich too (with pluggy, iniconfig, pygments, markdown-it-py
and mdurl); tests of modules that need more, such as torchvision, are named as not collected. `evaluation` needs
torchvision, and torch-fidelity for its rows of Inception. Images are random.

Parts, in their order, with the seconds after which each leaves out the rest of its cases:

    smoke       30   every variant trains some steps, replayed as CUDA graphs
    equality    80   replayed steps against calls of the same function, to the bit: every variant, both precisions
    resume      50   two runs of one seed; a run stopped and resumed; what cuDNN's deterministic algorithms cost
    tests       80   pytest -m gpu
    timings    110   a step against loops by hand, the host's part, memory, the build before
    compiled    30   networks compiled inside the capture
    evaluation  40   gpu_evaluation.py
    jobs        40   gpu_jobs.py

longer=2 gives each part twice its seconds; only=stylegan2,ADA has `smoke` and `equality` try these cases alone.
`seconds` (default 3) are what the contenders of one row of the timings take together. With before=<another checkout>
the first row is timed against the code of that one too, which must have `gantry.models.module`. Prints a Markdown table
for each part as it goes, and at the end one of all verdicts; it exits with 1 where one is missed. Without a GPU it runs
on the CPU with tiny networks, to see that it runs, and gives no verdict on what only a GPU can show.
"""

import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))  # on a bare machine Gantry is not installed

import gpu_equality
import gpu_timings
from gpu_runs import ON_GPU, ROOT, Report

BUDGETS = {
    **{"smoke": 30, "equality": 80, "resume": 50, "tests": 80},
    **{"timings": 110, "compiled": 30, "evaluation": 40, "jobs": 40},
}
WHOLE = 470  # seconds, of all parts
LOUD = ("pytorch_lightning", "lightning_fabric")  # loggers
GROWTH = 20_000 if ON_GPU else 60  # steps


def timings(report: Report, seconds: float, before: str | None) -> None:
    """Everything about the time and the memory of a step."""
    gpu_timings.against_loops(report, seconds)
    parts: dict[str, Callable[[], None]] = {
        "the host's part": lambda: gpu_timings.host(report, min(seconds, 2.0)),
        "the build before": lambda: gpu_timings.before(report, before, seconds),
        "peak memory": lambda: gpu_timings.memory(report),
        "memory over many steps": lambda: gpu_timings.growth(report, GROWTH),
    }
    for name, part in parts.items():
        if not report.late(name):
            report.say("")
            report.tried(name, part)


def tests(report: Report) -> None:
    """The tests marked `gpu`."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "tests", "--continue-on-collection-errors", "-rfE"]
    try:
        ended = subprocess.run(
            [*command, "--tb=line", "-p", "no:cacheprovider"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=max(1.0, report.end - time.monotonic()),
        )
    except subprocess.TimeoutExpired as error:
        said = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""
        report.say(f"(cut after {error.timeout:.0f} s: {said.splitlines()[-1] if said else 'nothing said'})")
        report.verdict("tests marked gpu", "all pass", f"not done in {error.timeout:.0f} s", False)
        return
    if "No module named pytest" in ended.stderr:
        report.say("(tests: left out, since pytest is not installed)")
        return
    lines = ended.stdout.splitlines()
    summary = lines[-1] if lines else ended.stderr.strip()
    apart = [line for line in lines if re.match(r"(FAILED|ERROR) ", line)]
    # A module that cannot be imported here has no test that could fail.
    broken = [line for line in apart if "::" in line]
    report.say(summary, *(f"- {line}" for line in apart if line in broken or "ERROR" in line))
    met = not broken and " passed" in summary if ON_GPU else None
    report.verdict("tests marked gpu", "all pass", summary.strip("= "), met)


def script(report: Report, name: str, *arguments: str) -> list[str]:
    """Print what another script of this folder prints, for as long as the part has time; return its lines."""
    path = Path(__file__).with_name(name)
    if not path.exists():
        report.say(f"(left out, since {name} is not there)")
        return []
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(path), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    timer = threading.Timer(report.end - time.monotonic(), os.killpg, (process.pid, signal.SIGKILL))
    timer.start()
    lines = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            report.say(lines[-1])
    finally:
        timer.cancel()
    if code := process.wait():
        report.say("(cut, since this part's time is over)" if code == -signal.SIGKILL else f"(it ended with {code})")
    return lines


def evaluation(report: Report) -> None:
    """The parts of an evaluation."""
    script(
        report,
        "gpu_evaluation.py",
        *(("1000", "250", "1", "50000", "2048") if ON_GPU else ("4", "4", "1", "100", "16")),
    )


def jobs(report: Report) -> None:
    """Several jobs on one device."""
    count = 4 if ON_GPU else 2
    tiny = [] if ON_GPU else ["steps=4", "size=8", "batch=4", "width=4"]
    lines = script(report, "gpu_jobs.py", f"jobs={count}", "rounds=1", *tiny)
    if lines and lines[-1].startswith("| dcgan"):
        together = float(lines[-1].strip("| ").rpartition("|")[2])
        met = together > 1 if ON_GPU else None
        report.verdict(f"{count} jobs together", "faster than one after the other", f"{together:.2f}", met)


def main(arguments: list[str]) -> int:
    """Check, measure and print; return 1 where something that was asked is missed."""
    options = dict(text.split("=", 1) for text in arguments if "=" in text)
    plain = [text for text in arguments if "=" not in text]
    chosen = plain[0].split(",") if plain else list(BUDGETS)
    seconds = float(plain[1]) if len(plain) > 1 else (3.0 if ON_GPU else 0.3)
    unknown = [name for name in options if name not in ("before", "longer", "only")]
    if wrong := [name for name in chosen if name not in BUDGETS] + unknown:
        sys.exit(f"{', '.join(wrong)}: not one of {', '.join(BUDGETS)}, before=, longer=, only=")
    longer = float(options.get("longer", 1))
    if "only" in options:
        gpu_equality.keep_only(options["only"].split(","))
    warnings.simplefilter("ignore")
    for name in LOUD:
        logging.getLogger(name).setLevel(logging.ERROR)
    report = Report()
    parts: dict[str, Callable[[], None]] = {
        "smoke": lambda: gpu_equality.smoke(report),
        "equality": lambda: gpu_equality.equality(report),
        "resume": lambda: gpu_equality.resume(report),
        "tests": lambda: tests(report),
        "timings": lambda: timings(report, seconds, options.get("before")),
        "compiled": lambda: gpu_timings.compiled(report, seconds),
        "evaluation": lambda: evaluation(report),
        "jobs": lambda: jobs(report),
    }
    report.say(f"`{' '.join(['python benchmarks/gpu.py', *arguments])}`", "", f"{gpu_timings.device()}.")
    end = time.monotonic() + longer * WHOLE
    for name in chosen:
        began = time.monotonic()
        report.say("", f"## {name}", "")
        report.end = min(began + longer * BUDGETS[name], end)
        if not report.late(name):
            report.tried(name, parts[name])
        report.say("", f"({time.monotonic() - began:.0f} s)")
    report.say("", "## Verdicts", "")
    report.head("what", "asked", "measured", "")
    for verdict in report.verdicts:
        report.row(*verdict)
    return int(any(verdict[-1] == "missed" for verdict in report.verdicts))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
