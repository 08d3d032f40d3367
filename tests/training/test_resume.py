"""A run that was stopped goes on as if it never had been."""

import json
import shutil
import signal

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from gantry.commands.arguments import run_arguments
from gantry.core.errors import PeerFailed, RunFailed, UserError
from gantry.core.processes.signals import Stop, Stopped
from gantry.runs import checkpoint_files
from gantry.runs.folder import read_kind, read_status, write_status
from gantry.runs.generator_metadata import exported_step
from gantry.training import build, resume
from gantry.training import run as training
from gantry.training.callbacks.divergence import Diverged
from gantry.training.callbacks.evaluation import Evaluation
from gantry.training.distributed import spawn
from gantry.training.resume import check_same_data, check_unchanged, is_done, parameters, take_up

SLOW = pytest.mark.slow
TAGS = {"variant": "wgan", "dataset": "digits"}
NEWER = ("data.ground", "data.labels")  # options of image_folder that runs of earlier versions lack
VARYING = ("images_per_second", "training_seconds", "evaluation_seconds", "peak_memory_mib", "time")


class StopAt(Stop):
    """Asked to stop at the n-th time it is asked: once a step, and once for each batch that is measured."""

    def __init__(self, n):
        super().__init__()
        self.left = n

    def check(self):
        self.left -= 1
        if self.left == 0:
            raise Stopped(signal.SIGTERM)


@pytest.fixture(scope="module")
def overrides():
    return [
        "experiment=smoke",
        "model=wgan",
        "model.generator.width=4",
        "model.discriminator.width=4",
        "steps=6",
        "metrics.every=3",
        "log_every=2",
        "checkpoint.keep=9",
    ]


@pytest.fixture
def run(config, overrides, tmp_path, monkeypatch):
    def run(name, stop=None, start=None):
        monkeypatch.setattr(build, "AgreedStop", lambda _: Stop() if stop is None else StopAt(stop))
        return training.train(config(*overrides), tmp_path / name, TAGS, start)

    (tmp_path / "stopped").mkdir()
    (tmp_path / "whole").mkdir()
    return run


def history(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in VARYING} for line in lines]


STOPPED = [(1, 0), (4, 3), (5, 3), (8, 6), *(pytest.param(*case, marks=SLOW) for case in ((3, 2), (6, 4)))]


# One check measures the untrained generator; then each step asks, and at steps 3 and 6 the measuring before it.
@pytest.mark.parametrize(("n", "step"), STOPPED)
def test_a_stopped_run_goes_on_to_the_same_end(run, config, overrides, tmp_path, n, step):
    whole = run("whole")
    stopped = tmp_path / "stopped"
    with pytest.raises(SystemExit) as ended:
        run("stopped", stop=n)
    assert ended.value.code == 143
    status = json.loads((stopped / "status.json").read_text())
    assert (status["status"], status["reason"]) == ("KILLED", "stopped by SIGTERM")
    start = take_up(stopped, config(*overrides))
    assert (start.step, start.goes_on) == (step, True)
    resumed = run("stopped", start=start)
    assert history(stopped) == history(tmp_path / "whole")
    assert (resumed.first, resumed.best, resumed.final) == (whole.first, whole.best, whole.final)
    assert resumed.classes == whole.classes
    for kept in ("best", "last"):
        mine, theirs = (
            load_file(folder / "generator" / kept / "generator.safetensors") for folder in (stopped, tmp_path / "whole")
        )
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert json.loads((stopped / "status.json").read_text())["status"] == "FINISHED"


def test_a_run_of_before_further_terms_and_standing_statistics_goes_on(config, tmp_path):
    now = config("experiment=smoke", "model=dcgan")
    assert (now.model.terms, now.model.ema.standing) == ([], 0)
    before = parameters(now)
    assert not {"model.terms", "model.ema.standing"} & before.keys()
    (tmp_path / "params.json").write_text(json.dumps(before))
    assert check_unchanged(tmp_path, now) == ()
    standing = config("experiment=smoke", "model=dcgan", "model.ema.standing=4")
    with pytest.raises(UserError, match=r"model\.ema\.standing: was absent, is 4"):
        check_unchanged(tmp_path, standing)


def test_what_was_written_after_the_checkpoint_is_taken_back(run, config, overrides, tmp_path):
    with pytest.raises(SystemExit):
        run("stopped", stop=6)
    with (tmp_path / "stopped" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "time": 0, "loss/generator": 1}\n{"step": 6, "lo')  # killed while it wrote
    run("stopped", start=take_up(tmp_path / "stopped", config(*overrides)))
    run("whole")
    assert history(tmp_path / "stopped") == history(tmp_path / "whole")


def test_killed_after_its_last_checkpoint_a_run_exports_what_that_had_measured(
    run, config, overrides, tmp_path, monkeypatch
):
    class Killed(BaseException):
        """Stands for SIGKILL."""

    def mark(folder, path):
        if "0000006" in path.name:
            raise Killed
        before(folder, path)

    before = checkpoint_files.mark_best
    monkeypatch.setattr(checkpoint_files, "mark_best", mark)
    with pytest.raises(Killed):
        run("stopped")
    monkeypatch.setattr(checkpoint_files, "mark_best", before)
    stopped = tmp_path / "stopped"
    (stopped / "status.json").unlink()
    start = take_up(stopped, config(*overrides))
    assert start.step == 6
    assert run("stopped", start=start).best_step == 6  # the metric is best at the end
    assert checkpoint_files.newest(stopped, checkpoint_files.BEST).step == 6
    assert [exported_step(stopped / "generator" / which) for which in ("best", "last")] == [6, 6]


@pytest.mark.parametrize("damage", ["one bit", pytest.param("cut off", marks=SLOW), pytest.param("empty", marks=SLOW)])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(run, config, overrides, tmp_path, caplog, damage):
    with pytest.raises(SystemExit):
        run("stopped", stop=6)
    folder = tmp_path / "stopped"
    last, before, _ = checkpoint_files.found(folder, checkpoint_files.STEP)
    content = bytearray(last.path.read_bytes())
    content[len(content) // 2] ^= 1
    last.path.write_bytes({"cut off": content[:-100], "one bit": content, "empty": b""}[damage])
    start = take_up(folder, config(*overrides))
    assert (last.step, start.step, start.checkpoint) == (4, 3, before.path)
    assert last.path.name in caplog.text
    assert "damaged" in caplog.text
    run("stopped", start=start)
    run("whole")
    assert history(folder) == history(tmp_path / "whole")
    assert not [one for one in checkpoint_files.found(folder) if not one.is_sound()]


def test_where_no_checkpoint_is_whole_a_run_is_not_begun_again_unasked(run, config, overrides, tmp_path):
    with pytest.raises(SystemExit):
        run("stopped", stop=4)
    for one in checkpoint_files.found(tmp_path / "stopped"):
        one.path.write_bytes(b"")
    before = history(tmp_path / "stopped")
    for _ in range(2):
        with pytest.raises(UserError, match=r"none of its \d checkpoints is whole"):
            take_up(tmp_path / "stopped", config(*overrides, f"resume={tmp_path}/stopped"))
    shutil.rmtree(tmp_path / "stopped" / "checkpoints")
    with pytest.raises(UserError, match="no checkpoint to go on from, and its record goes to step 3"):
        take_up(tmp_path / "stopped", config(*overrides, f"resume={tmp_path}/stopped"))
    assert history(tmp_path / "stopped") == before


def test_options_come_before_the_overrides_of_the_run(tmp_path):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "overrides.yaml").write_text("- data=stripes\n")
    given = ["--config-dir", "mine", f"resume={tmp_path}", "steps=9"]
    assert run_arguments(given)[:4] == ["--config-dir", "mine", "data=stripes", "steps=9"]


def test_a_longer_budget_goes_on_to_where_it_would_have_ended(run, config, overrides, tmp_path):
    run("stopped")
    longer = [*overrides, "steps=9", "guard.every=25"]
    cfg = config(*longer, f"resume={tmp_path}/stopped")
    assert is_done(tmp_path / "stopped", config(*overrides))
    assert not is_done(tmp_path / "stopped", cfg)
    start = take_up(tmp_path / "stopped", cfg)
    assert (start.step, start.changes) == (6, ("guard.every 50 -> 25", "steps 6 -> 9"))
    training.train(cfg, tmp_path / "stopped", TAGS, start)
    training.train(config(*longer), tmp_path / "whole", TAGS)
    mine, theirs = history(tmp_path / "stopped"), history(tmp_path / "whole")
    final = [name for line in mine for name in line if name.startswith("final/") and line["step"] == 6]
    assert final  # it had ended there once
    assert [{k: v for k, v in line.items() if line["step"] != 6 or k not in final} for line in mine] == theirs
    tags = json.loads((tmp_path / "stopped" / "tags.json").read_text())
    assert tags["gantry.resumed"] == "at step 6 with guard.every 50 -> 25, steps 6 -> 9"
    assert json.loads(tags["gantry.changed"]) == {"steps": "9", "guard.every": "25"}


def test_a_budget_that_is_passed_is_no_end_to_go_on_to(config, overrides, tmp_path):
    checkpoint_files.write(tmp_path, 5, b"")
    write_status(tmp_path, "KILLED", "stopped by SIGTERM")
    with pytest.raises(UserError, match=r"steps=4: the run in .* has done 5 already"):
        take_up(tmp_path, config(*overrides, "steps=4"))
    assert (tmp_path / "status.json").exists()
    assert take_up(tmp_path, config(*overrides, "steps=5")).step == 5


def test_another_config_cannot_go_on(config, overrides, tmp_path):
    before = config(*overrides)
    (tmp_path / "params.json").write_text(json.dumps(parameters(before)))
    assert check_unchanged(tmp_path, before) == ()
    free = ["sweep.jobs=4", "paths.cache=/elsewhere", "log_every=1"]
    assert check_unchanged(tmp_path, config(*overrides, *free)) == ("log_every 2 -> 1",)
    with pytest.raises(UserError, match=r"model\.n_critic: was 5, is 2"):
        check_unchanged(tmp_path, config(*overrides, "model.n_critic=2"))
    changed = OmegaConf.merge(before, {"seed": 3, "batch_size": 8})
    with pytest.raises(UserError, match=r"batch_size: was 16, is 8\nseed: was 0, is 3"):
        check_unchanged(tmp_path, changed)


@pytest.mark.parametrize("now", ["ada", "none"])
def test_a_run_with_another_augmentation_is_told_which_and_what_to_do(config, tmp_path, now):
    (tmp_path / "params.json").write_text(json.dumps(parameters(config("model=dcgan", "model/augment=diffaugment"))))
    with pytest.raises(UserError) as refused:
        check_unchanged(tmp_path, config("model=dcgan", f"model/augment={now}"))
    _, part, advice = str(refused.value).split("\n")
    named = {"ada": "gantry.models.augment.ada.ADA", "none": "absent"}[now]
    assert part == f"model.augment._target_: was gantry.models.augment.diffaugment.DiffAugment, is {named}"
    assert "leave out what changes it" in advice
    assert advice.endswith(f"init_from={tmp_path}")


def test_options_of_the_data_that_a_run_began_before_are_no_change_at_their_defaults(config, tmp_path):
    chosen = ["model=dcgan", "data=image_folder", "data.folder=/pictures"]
    began = parameters(config(*chosen))
    (tmp_path / "params.json").write_text(json.dumps({k: began[k] for k in began if k not in NEWER}))
    assert check_unchanged(tmp_path, config(*chosen)) == ()
    with pytest.raises(UserError, match=r"data\.ground: was absent, is black"):
        check_unchanged(tmp_path, config(*chosen, "data.ground=black"))


def test_the_best_generator_is_written_once_a_full_disk_takes_it(run, tmp_path, monkeypatch):
    def write(folder, step, content):
        if step == 3:
            raise OSError(28, "No space left on device")
        return before(folder, step, content)

    before = checkpoint_files.write
    monkeypatch.setattr(checkpoint_files, "write", write)
    monkeypatch.setattr(Evaluation, "_improves", lambda self, _: not self.best)
    assert run("stopped").best_step == 3
    assert [exported_step(tmp_path / "stopped" / "generator" / which) for which in ("best", "last")] == [3, 6]


def test_without_space_for_its_summary_a_run_fails_and_is_ended_by_resume(
    run, config, overrides, tmp_path, monkeypatch
):
    def write_json(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("gantry.runs.summary.write_json", write_json)
        with pytest.raises(RunFailed, match=r"No space left on device; resume=.*stopped does it"):
            run("stopped")
    stopped = tmp_path / "stopped"
    assert json.loads((stopped / "status.json").read_text())["status"] == "FAILED"
    start = take_up(stopped, config(*overrides, f"resume={stopped}"))
    assert (start.step, run("stopped", start=start).steps) == (6, 6)
    assert json.loads((stopped / "status.json").read_text())["status"] == "FINISHED"


@pytest.mark.parametrize("error", [Stopped(signal.SIGTERM), RunFailed("no more checkpoints")])
def test_on_a_full_disk_a_run_ends_by_what_has_ended_it(tmp_path, monkeypatch, caplog, error):
    def write_status(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(resume, "write_status", write_status)
    with pytest.raises(type(error)), resume.ending_on_record(tmp_path):
        raise error
    assert "status.json cannot be written" in caplog.text


def test_a_run_does_not_go_on_with_images_that_have_changed(tmp_path):
    (tmp_path / "tags.json").write_text(json.dumps({"metrics.data_digest": "d1"}))
    check_same_data(tmp_path, "d1")
    with pytest.raises(UserError, match="digest was d1, is d2"):
        check_same_data(tmp_path, "d2")


@pytest.mark.parametrize("before", [("FINISHED", None), ("KILLED", "stopped by SIGTERM"), (None, None)])
def test_where_going_on_is_refused_a_run_has_ended_as_before(tmp_path, before):
    with pytest.raises(UserError), resume.ending_on_record(tmp_path, before):
        raise UserError("no such data")
    assert read_status(tmp_path) == before
    with pytest.raises(UserError), resume.ending_on_record(tmp_path / "new"):
        raise UserError("no such data")
    assert read_status(tmp_path / "new") == ("FAILED", "UserError: no such data")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Diverged(1, 2, ["loss"]), "diverged"),
        (RunFailed("out", kind="out_of_memory"), "out_of_memory"),
        (OSError(), None),
    ],
)
def test_the_kind_of_a_failure_stands_beside_its_reason(tmp_path, error, kind):
    """As a field: a search has not to look for a word."""
    for said in (None, ("FAILED", "as its tracker has said")):
        if said is not None:
            write_status(tmp_path, *said)
        with pytest.raises(type(error)), resume.ending_on_record(tmp_path):
            raise error
        assert read_kind(tmp_path) == kind
        assert read_status(tmp_path) == (said or ("FAILED", str(error) or "OSError: "))


def test_a_rank_says_in_the_runs_folder_why_it_failed_and_a_later_attempt_takes_that_back(tmp_path):
    for error, reason in (
        (ValueError("bad"), "rank 1: ValueError: bad"),
        (PeerFailed("rank 2 on here: gone", "rank 2 on here failed:\ngone"), "rank 2 on here: gone"),
    ):
        with pytest.raises(type(error)), spawn.ending_left(tmp_path, 1):
            raise error
        assert json.loads((tmp_path / "rank_1.json").read_text()) == {"reason": reason, "kind": None}
    with spawn.ending_left(tmp_path, 1):
        assert not (tmp_path / "rank_1.json").exists()
