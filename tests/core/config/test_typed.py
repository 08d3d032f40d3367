"""Options that are text reach the config as they were typed, whatever Hydra's grammar reads in them."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from project import ROOT

from gantry.core.config.options import Compare, Evaluate, Train
from gantry.core.config.sample_options import Sample
from gantry.core.config.typed import as_typed, plain

ODD = (
    *(
        "l'été",
        "faces (1)",
        "a=b",
        "v1,v2",
        "run#2",
        "日本",
        "my images",
        'a"b',
        "x$y",
        "~/z",
        "b\\s",
        "end\\",
        "~t",
        " sp",
    ),
    *("{c}", "[d]", "p%20q", "a:b", "null ", "true", "007", "1e5", "glob(*)", "it's, it's", "a\\'b", "$(x)", "a;b&c|d"),
)


def read(argument: str) -> object:
    """Return the value that Hydra reads, which must be a single one."""
    parsed = OverridesParser.create().parse_override(argument)
    assert not parsed.is_sweep_override(), argument
    return parsed.value()


@pytest.mark.parametrize("text", ODD)
@pytest.mark.parametrize(
    ("command", "key"),
    [
        *((Train, "data.folder"), (Train, "data.root"), (Train, "metrics.extractor.weights"), (Train, "paths.cache")),
        *((Train, "resume"), (Train, "tracking.uri"), (Train, "tracking.run_name"), (Train, "hydra.run.dir")),
        *((Evaluate, "data.folder"), (Evaluate, "extractor.weights"), (Evaluate, "images"), (Evaluate, "run")),
        *((Sample, "out"), (Sample, "project"), (Sample, "register"), (Compare, "out")),
    ],
)
def test_a_text_is_taken_as_typed_and_a_second_time_too(command: type, key: str, text: str) -> None:
    if key in ("run",) and text == "[d]":
        return  # a list of one run
    (argument,) = as_typed([f"{key}={text}"], command)
    assert read(argument) == text
    if command is Train:  # its jobs, its ranks and a resumed run are given what Hydra was given
        assert as_typed([argument], command) == [argument]
        assert plain(argument.partition("=")[2]) == text


FOR_JOBS = (
    "http://127.0.0.1:5055",
    "team:mine",
    "my experiment",
    "a:b c",
    "tabs\tand spaces",
    "$x",
    "a=b",
    "(c)",
    "ü:ö",
)


@pytest.mark.parametrize("text", FOR_JOBS)
@pytest.mark.parametrize("key", ["tracking.uri", "tracking.experiment", "data.folder", "paths.root"])
def test_each_job_of_a_sweep_gets_the_text_as_typed(key: str, text: str) -> None:
    """Hydra's sweeper writes each value anew for a job, whose process reads it once more."""
    typed = as_typed(["-m", f"{key}={text}", f"hydra.sweep.dir={text},second:{text}"], Train)[1:]
    parsed = OverridesParser.create().parse_overrides(typed)
    (jobs,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    assert [[read(argument) for argument in as_typed(job, Train)] for job in jobs] == [
        [text, text],
        [text, f"second:{text}"],
    ]


def test_the_config_holds_the_folder_as_typed() -> None:
    typed = ["data=image_folder", "data.folder=/pictures/l'été, 日本 (1)", "hydra.run.dir=/runs/a=b"]
    typed += ["paths.root=/q", "tracking.uri=${paths.root}/x:y"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", as_typed(typed, Train), return_hydra_config=True)
    assert config.data.folder == "/pictures/l'été, 日本 (1)"
    assert config.hydra.run.dir == "/runs/a=b"
    assert config.tracking.uri == "/q/x:y"


@pytest.mark.parametrize("text", ["/data/pictures", "null", "", "'in quotes'", '"a b"', "???"])
def test_what_hydra_reads_well_already_is_left_as_it_was(text: str) -> None:
    assert as_typed([f"data.folder={text}"], Train) == [f"data.folder={text}"]


def test_other_options_stay_in_hydras_grammar() -> None:
    typed = ["seed=0,1", "model=wgan", "~trainer.callbacks", "+data.note=a\\,b", "metrics.measures=[fid]", "--help"]
    assert as_typed(typed, Train) == typed


def swept(argument: str) -> list[object]:
    parsed = OverridesParser.create().parse_override(argument)
    return [plain(str(text)) for text in parsed.sweep_string_iterator()]


def test_a_sweep_takes_each_of_several_paths_as_typed(tmp_path: Path) -> None:
    (tmp_path / "v1,v2").mkdir()
    many = "/a/日本,/b/l'été,/c (1),'/d,e'"
    _, argument = as_typed(["-m", f"data.folder={many}"], Train)
    assert swept(argument) == ["/a/日本", "/b/l'été", "/c (1)", "/d,e"]
    assert as_typed(["-m", "data.folder=/a,/b"], Train)[1] == "data.folder=/a,/b"
    assert as_typed(["-m", "data.folder=choice(/a,/b)"], Train)[1] == "data.folder=choice(/a,/b)"
    (_, argument) = as_typed(["-m", f"data.folder={tmp_path}/v1,v2"], Train)
    assert read(argument) == f"{tmp_path}/v1,v2"  # there is such a folder, so it is one value


def test_several_folders_without_a_sweep_are_refused_by_hydra(tmp_path: Path) -> None:
    first, second = tmp_path / "it's", tmp_path / "日本"
    first.mkdir()
    second.mkdir()
    (argument,) = as_typed([f"data.folder={first},{second}"], Train)
    assert OverridesParser.create().parse_override(argument).is_sweep_override()


def test_hydras_escapes_stand_for_a_path_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "v1,v2").mkdir()
    (argument,) = as_typed([f"data.folder={tmp_path}/v1\\,v2"], Train)
    assert read(argument) == f"{tmp_path}/v1,v2"


def test_a_list_of_runs_takes_each_as_typed() -> None:
    (argument,) = as_typed(["runs=[outputs/l'été, outputs/日本 (1),'a,b']"], Compare)
    assert read(argument) == ["outputs/l'été", "outputs/日本 (1)", "a,b"]
