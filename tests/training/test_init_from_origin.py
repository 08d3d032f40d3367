"""What `init_from=` may name, and what is refused before a run begins: files from elsewhere are data."""

import shutil

import pytest
from omegaconf import OmegaConf
from origins import SMALL, found, nowhere

from gantry.commands.arguments import arguments
from gantry.core.config.overrides import quoted
from gantry.core.errors import UserError
from gantry.runs import checkpoint_files
from gantry.runs.find import find_run
from gantry.runs.folder import write_status
from gantry.runs.generator_files import save_generator
from gantry.runs.generators import ExportedFiles
from gantry.runs.sweep_record import JobRecord, SweepRecord
from gantry.training.init_from.origin import find_origin, origin_of
from gantry.training.init_from.weights import read_initial
from gantry.training.resume import Start
from gantry.training.rules import check_run

SMALL += ["model.generator.width=4", "model.discriminator.width=4"]


def test_every_name_of_a_run_is_the_checkpoint_of_its_best_step(trained, tmp_path, capsys):
    run = trained()
    best = checkpoint_files.newest(run, "best").path
    for word in (run, run.relative_to(tmp_path), "0123abc", "run 0123abc", "latest", "best", best):
        origin = found(word, tmp_path)
        assert (origin.path, origin.is_checkpoint, origin.run_id) == (best, True, "0123abc"), word
        assert origin.classes["discriminator"] == "gantry.models.networks.dcgan.Discriminator"
        assert origin.networks("all") == ("generator", "discriminator")
        assert origin.networks("generator") == ("generator",)
    (last,) = (one.path for one in checkpoint_files.found(run, "step") if one.step == 9)
    assert found(last, tmp_path).path == last


def test_an_export_is_its_generator_alone_wherever_it_lies(trained, tmp_path):
    run = trained()
    export = run / "generator" / "best"
    for word in (export, export / "generator.safetensors", export / "generator.json"):
        origin = found(word, tmp_path)
        assert (origin.path, origin.is_checkpoint, origin.run_id) == (export, False, "0123abc")
        assert origin.networks("all") == ("generator",)
    shutil.copytree(export, tmp_path / "sent")
    assert found("sent", tmp_path).run_id is None


def test_a_run_without_an_export_or_without_checkpoints_gives_what_it_has(trained, tmp_path):
    run = trained()
    shutil.rmtree(run / "generator")
    assert found(run, tmp_path).is_checkpoint
    for one in checkpoint_files.found(run, "best"):
        one.path.unlink()
    assert "step_0000009" in found("0123abc", tmp_path).path.name
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(UserError, match=r"init_from=outputs/.*: the run has exported no generator"):
        found(run, tmp_path)
    other = trained("other")
    shutil.rmtree(other / "checkpoints")
    assert found(other, tmp_path).path == other / "generator" / "best"


def test_a_registered_generator_is_named_with_its_version(build, tmp_path, monkeypatch):
    from gantry.generation.registry.registry import register
    from gantry.runs.tracking.query import open_store
    from gantry.runs.tracking.store import prepare_store

    monkeypatch.chdir(tmp_path)
    made = build()
    save_generator(tmp_path / "sent", made.gan.averaged.module, made.network, 7)
    client, experiment = prepare_store(tmp_path / "store", "gantry")
    files = ExportedFiles(tmp_path / "sent", ("gantry.models.networks.",))
    register(client, "digits", files, experiment)
    client.set_registered_model_alias("digits", "champion", "1")
    for word in ("digits", "digits@champion", "models:/digits/1", "models:/digits@champion"):
        origin = find_origin(word, lambda: open_store(tmp_path / "store", "gantry"), tmp_path / "cache")
        assert (origin.model, origin.title, origin.is_checkpoint) == ("models:/digits/1", "models:/digits/1", False)
        initial = read_initial(origin, "all", made.gan)
        assert (initial.record["sha256"], initial.record["step"]) == (files.digest(), 7)
        assert (initial.record["model"], initial.record["networks"]) == ("models:/digits/1", "all")
    for word in ("models:/digits/2", "models:/nobody/1", "nobody"):
        with pytest.raises(UserError, match=f"init_from={word}.*"):
            find_origin(word, lambda: open_store(tmp_path / "store", "gantry"), tmp_path / "cache")


def test_what_is_not_there_is_refused_with_what_there_is(trained, tmp_path):
    run = trained()
    said = r"init_from=nowhere: no such run \(a folder, .*; the newest:\n  outputs/.*a checkpoint's file"
    with pytest.raises(UserError, match=said):
        found("nowhere", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"init_from=empty: holds neither a run, .* nor an exported generator"):
        found("empty", tmp_path)
    sweep = tmp_path / "outputs" / "2026-01-01" / "sweep"
    jobs = [trained(f"sweep/{number}_dcgan", f"id{number}") for number in range(2)]
    SweepRecord(sweep, "s", [], None, jobs=[JobRecord(n, [], job.name) for n, job in enumerate(jobs)]).save()
    with pytest.raises(UserError, match=r"(?s)init_from=.*: 2 runs; name one of them:.*0_dcgan.*1_dcgan"):
        found(sweep, tmp_path)
    assert found(jobs[1], tmp_path).run_id == "id1"
    best = checkpoint_files.newest(run, "best").path
    content = bytearray(best.read_bytes())
    content[-1] ^= 1
    best.write_bytes(content)
    with pytest.raises(UserError, match=r"init_from=outputs/.*: the file is damaged"):
        found(best, tmp_path)
    (run / "config.yaml").write_text("[1]")
    (last,) = (one.path for one in checkpoint_files.found(run, "step") if one.step == 9)
    with pytest.raises(UserError, match="is not a run's config"):
        found(last, tmp_path)


def test_nothing_is_looked_for_without_the_option_or_on_resume(config, tmp_path):
    assert origin_of(config(*SMALL), tmp_path, Start()) is None
    assert origin_of(config(*SMALL, "init_from=nowhere"), tmp_path, Start(tmp_path / "a.ckpt", 3, True)) is None
    with pytest.raises(UserError, match="init_networks: belongs to init_from"):
        check_run(config(*SMALL, "init_networks=generator"))
    with pytest.raises(UserError, match=r"init_networks: must be .*all.*generator.*, not 'generatr'; did you mean"):
        check_run(config(*SMALL, "init_from=x", "init_networks=generatr"))


def test_the_command_line_settles_which_run_latest_means(trained, tmp_path):
    run = trained().relative_to(tmp_path)
    assert arguments(["init_from=latest", "seed=1"]) == [f"init_from={quoted(run)}", "seed=1"]
    assert arguments(["-m", "init_from=latest,null,models:/digits@champion"]) == [
        "-m",
        f"init_from={quoted(run)},null,'models:/digits@champion'",
    ]
    for kept in (
        "init_from=outputs/x",
        "init_from=a,b",
        "init_from='my run'",
        "init_from=null",
        "init_from=d@champion",
    ):
        assert arguments(["-m", kept]) == ["-m", kept]
    for text in ("12345678", "1e5", "a/b=c.ckpt", "a(1).ckpt"):  # which Hydra reads as numbers, or not at all
        assert arguments([f"init_from={text}"]) == [f"init_from='{text}'"]
    shutil.rmtree(run / "generator")
    with pytest.raises(UserError, match="init_from=latest: no run in"):
        arguments(["init_from=latest"])


def test_a_run_that_goes_on_begins_with_the_weights_that_latest_meant_then(trained, tmp_path):
    source, later = trained(), tmp_path / "outputs" / "2026-01-02" / "stopped"
    (later / ".hydra").mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(["model=wgan", f"init_from={quoted(source)}"]), later / ".hydra/overrides.yaml")
    (later / "params.json").write_text("{}")
    write_status(later, "KILLED", None)
    trained("13-00-00", "another")
    given = ["model=wgan", "init_from=latest", "resume=auto"]
    assert find_run("auto", given, nowhere) == later
    words = arguments(given)
    assert [word for word in words if word.startswith("init_from=")] == [f"init_from={quoted(source)}"]
    assert find_run("auto", ["model=wgan", "resume=auto"], nowhere) is None
    assert find_run("auto", ["model=wgan", "init_from=other", "resume=auto"], nowhere) is None


def test_a_word_that_each_job_of_a_sweep_would_take_otherwise_is_refused(trained, config, tmp_path):
    trained()
    (tmp_path / "sweep.json").write_text("{}")
    with pytest.raises(UserError, match="init_from=latest: each job of the sweep would take another one"):
        origin_of(config(*SMALL, "init_from=latest"), tmp_path / "0_dcgan", Start())
    assert origin_of(config(*SMALL, "init_from=latest"), tmp_path / "away" / "0_dcgan", Start()) is not None
