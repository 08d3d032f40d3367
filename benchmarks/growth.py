"""How what Gantry does grows with the runs in the store and with the jobs of a sweep.

    python benchmarks/growth.py [runs,jobs]

Prints Markdown. Each comparison and each sweep is a process of its own; seconds are from its start to its end.
"""

import itertools
import json
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from gantry.core.files import write_json, write_png
from gantry.runs.tracking.params import flatten

ROOT = Path(__file__).parents[1]
CURVES = (
    *("loss/generator", "loss/discriminator", "score/real", "images_seen", "training_seconds"),
    *("fid_classifier", "kid_classifier", "inception_score_classifier"),
)
POINTS, EVERY = 100, 50


def composed(*overrides: str) -> DictConfig:
    """The config of a run."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", list(overrides))


def store(folder: Path, runs: int, seeds: int) -> Path:
    """A sweep of `runs` finished jobs, in folders and in an MLflow store, of `seeds` seeds a configuration.

    The first run is logged through MLflow's client, 8 metrics of 100 points each and their ends, and the others are
    its rows copied by SQL, with other values: through the client a thousand runs take most of an hour.
    """
    from mlflow.entities import Metric, Param, RunTag

    from gantry.runs.tracking.store import locate, prepare_store
    from gantry.runs.tracking.sweep_run import open_parent

    sweep, uri = folder / "sweep", str(folder / "mlruns")
    sweep.mkdir()
    parent = open_parent(uri, "gantry", "sweep", ["model=dcgan"], sweep)
    client, experiment = prepare_store(uri, "gantry")
    steps = EVERY * POINTS
    params = flatten(
        OmegaConf.to_container(
            composed(f"steps={steps}", f"paths.root={folder}", "tracking.run_name=none"), resolve=True
        )
    )  # type: ignore[arg-type]
    protocol = {"data": "digits", "data_digest": "d" * 64, "split": "all", "n_real": "1797", "n_generated": "2000"}
    protocol |= {"extractor": "classifier", "extractor_sha256": "e" * 64}
    tags = {"variant": "dcgan", "dataset": "digits", "mlflow.parentRunId": str(parent)}
    tags |= {f"metrics.{key}": value for key, value in protocol.items()}
    shape = {name: 1 + 100 / (1 + np.arange(1, POINTS + 1)) for name in CURVES}
    shape |= {name: np.arange(1.0, POINTS + 1) for name in ("images_seen", "training_seconds")}
    points = [(name, float(v), EVERY * (i + 1)) for name, curve in shape.items() for i, v in enumerate(curve)]
    points += [(f"{end}/{name}", float(shape[name][-1]), steps) for end in ("best", "final") for name in CURVES[-3:]]
    first = client.create_run(experiment, run_name="0", tags=tags).info
    client.log_batch(
        first.run_id,
        [Metric(name, value, 0, step) for name, value, step in points],
        [Param(key, value) for key, value in params.items()],
        [RunTag("overrides", "")],
    )
    client.set_terminated(first.run_id)
    picture = np.zeros((65, 65, 3), np.uint8)
    jobs = []
    database = sqlite3.connect(str(locate(uri).database))
    columns = {
        table: [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
        for table in ("runs", "metrics", "latest_metrics", "params", "tags")
    }
    (artifacts,) = database.execute("SELECT artifact_uri FROM runs WHERE run_uuid = ?", (first.run_id,)).fetchone()
    for number in range(runs):
        overrides = [f"seed={number % seeds}", f"model.optimizer.lr={1e-4 + 1e-7 * (number // seeds)}"]
        name, run_id, factor = f"{number}_job", first.run_id if number == 0 else uuid.uuid4().hex, 1 + number / runs
        job = sweep / name
        own = {"overrides": " ".join(overrides), "gantry.folder": str(job), "seed": str(number % seeds)}
        options = {"seed": str(number % seeds), "model.optimizer.lr": overrides[1].partition("=")[2]}
        for table, names in columns.items() if number else ():
            given = {"run_uuid": f"'{run_id}'", "value": f"value * {factor}" if "metrics" in table else "value"}
            given |= {"name": f"'{name}'", "artifact_uri": f"'{artifacts.replace(first.run_id, run_id)}'"}
            values = ", ".join(given.get(column, column) for column in names)
            database.execute(
                f"INSERT INTO {table} ({', '.join(names)}) SELECT {values} FROM {table} WHERE run_uuid = ?",
                (first.run_id,),
            )
        for table, rows in (("tags", own), ("params", options)):
            database.executemany(
                f"INSERT OR REPLACE INTO {table} (key, value, run_uuid) VALUES (?, ?, ?)",
                [(*row, run_id) for row in rows.items()],
            )
        job.mkdir()
        lines: dict[int, dict[str, float]] = {}
        for metric, value, step in points:
            lines.setdefault(step, {"step": step, "time": 1e9 + number})[metric] = value * factor
        (job / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines.values()))
        write_json(params | options, job / "params.json")
        write_json(tags | own, job / "tags.json")
        write_json({"status": "FINISHED", "reason": None, "time": 1e9 + number}, job / "status.json")
        for step in (0, steps):
            write_png(picture, job / "samples" / f"{step:07d}.png")
        jobs.append({"number": number, "overrides": overrides, "folder": name})
    database.commit()
    database.close()
    record = {"name": "sweep", "parent_run": parent, "tracking_uri": uri, "experiment": "gantry", "overrides": []}
    write_json(record | {"jobs": jobs}, sweep / "sweep.json")
    return sweep


def runs() -> None:
    """Print what a comparison takes over the number of runs."""
    print("| runs | seeds of each configuration | from the folders, s | from the store, s |\n" + "| --- " * 4 + "|")
    for count, seeds in ((10, 1), (100, 1), (1000, 1), (1000, 5)):
        with tempfile.TemporaryDirectory() as root:
            sweep, seconds = store(Path(root), count, seeds), []
            with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
                cfg = compose("compare", [f"tracking.uri={root}/mlruns", f"out={root}/out", f"paths.root={root}"])
            for name, value in (("sweep", str(sweep)), ("filter", "tags.dataset = 'digits'")):
                call = DictConfig({**cfg, name: value})
                (Path(root) / f"{name}.yaml").write_text(OmegaConf.to_yaml(call))
                program = f"from omegaconf import OmegaConf; from gantry.commands import compare; import gc; \
gc.set_threshold(compare.LITTLE_TO_COLLECT); compare.job(OmegaConf.load({f'{root}/{name}.yaml'!r}))"
                began = time.perf_counter()
                subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
                seconds.append(time.perf_counter() - began)
            print(f"| {count} | {seeds} | {seconds[0]:.1f} | {seconds[1]:.1f} |", flush=True)


STUB = """
import json, os, sys, time
if "GANTRY_LEASH" in os.environ:
    from pathlib import Path
    folder = Path(sys.argv[-1].removeprefix("hydra.run.dir=").strip("'"))
    ends = dict.fromkeys(("first", "best", "final"), {"fid": 1.0})
    summary = {"primary": "fid", "steps": 1, "images_per_second": 1.0, **ends}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "status.json").write_text(json.dumps({"status": "FINISHED", "reason": None, "time": time.time()}))
else:
    from gantry.commands import cli
    from gantry.commands.arguments import arguments
    from gantry.core.files import ROOT
    from gantry.sweeps.sweep import leading
    def job(cfg):
        "Every job is a process."
    cli.run(job, ROOT / "conf", "train", leading(arguments))
"""


def jobs() -> None:
    """Print what a sweep adds to its jobs over their number: they only say that they have finished."""
    print("| jobs | before the first, s | of it a job, ms | from job to job, ms | after the last, s |")
    print("| --- " * 5 + "|")
    for count in (10, 50, 200):
        with tempfile.TemporaryDirectory() as root:
            script, sweep = Path(root) / "stub.py", Path(root) / "sweep"
            script.write_text(STUB)
            began = time.time()
            command = [sys.executable, script, "-m", f"seed=range(0,{count})", f"hydra.sweep.dir={sweep}"]
            subprocess.run([*command, "tracking=none"], cwd=root, check=True, capture_output=True)
            ended = time.time()
            ends = sorted(json.loads(file.read_text())["time"] for file in sweep.glob("*/status.json"))
        between = statistics.median(after - before for before, after in itertools.pairwise(ends))
        before = ends[0] - began
        cells = f"{before:.1f} | {1e3 * before / count:.0f} | {1e3 * between:.0f} | {ended - ends[-1]:.1f}"
        print(f"| {count} | {cells} |", flush=True)


def main(parts: str) -> None:
    """Measure and print."""
    from step import machine

    print(f"`python benchmarks/growth.py {parts}`\n\n{machine()}.")
    for part in parts.split(","):
        print(f"\n### {part}\n")
        {"runs": runs, "jobs": jobs}[part]()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "runs,jobs")
