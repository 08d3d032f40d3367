"""What README.md and docs/ say is true: links lead somewhere, commands can be typed, code runs, files are there."""

import fnmatch
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep
from project import ROOT

sys.path.insert(0, str(ROOT / "docs"))
from hooks import TABLES, tables

README = ROOT / "README.md"
PAGES = [README, ROOT / "examples" / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
GUIDES = ROOT / "docs" / "guides"
LINK = re.compile(r"\]\(([^)\s]+)\)")
# Commands of other programs, which are taken on trust.
OTHERS = ("python3", "pip", ".venv/bin/pip", "mlflow", "curl", "export", "#SBATCH")
SMALL = ["experiment=smoke", "tracking=none"]


def blocks(page, language):
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```", page.read_text())


def commands(page):
    """The commands of a page's bash blocks as words, without their comments, with x for <what the reader fills in>."""
    lines = "".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    typed = [re.sub(r"<[^>]*>", "x", re.sub(r" {2,}# .*", "", line)) for line in lines]
    return [shlex.split(line) for line in typed if line.strip()]


def name(page):
    return page.relative_to(ROOT).as_posix()


def test_readme_is_short():
    assert len(README.read_text().splitlines()) <= 150


def headings(page):
    """The anchors of a page, those of generated tables among them."""
    text = TABLES.sub(lambda match: "\n".join(tables(match["what"])), page.read_text())
    text = re.sub(r"(?ms)^```.*?^```", "", text)
    titles = re.findall(r"(?m)^#+ (.*)$", text)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_relative_links_lead_somewhere(page):
    text = re.sub(r"(?ms)^```.*?^```", "", page.read_text())
    for target in LINK.findall(text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        found = page.parent / path if path else page
        assert found.exists(), f"{name(page)}: {target}"
        assert not anchor or anchor in headings(found), f"{name(page)}: {target}"


def test_no_page_is_outside_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    left_out = [name(page) for page in (ROOT / "docs").rglob("*.md") if name(page)[len("docs/") :] not in navigation]
    assert left_out == []


def test_every_module_stands_in_the_page_of_packages():
    listed = set(re.findall(r"`([a-z_0-9.]+)`", (ROOT / "docs/architecture/packages.md").read_text()))
    package = ROOT / "src" / "gantry"
    modules = {path.stem for path in package.rglob("*.py") if path.stem != "__init__"}
    packages = {".".join(path.parent.relative_to(package).parts) for path in package.rglob("__init__.py")} - {""}
    assert sorted((modules | packages) - listed) == []


def test_commands_compose():
    """Every command is one there is, and its overrides are ones that the configs have."""
    targets = re.findall(r"(?m)^([a-z]+):", (ROOT / "Makefile").read_text())
    checked = set()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for page in PAGES:
            for words in commands(page):
                if words[0] == "make":
                    assert set(words[1:]) <= set(targets), words
                    continue
                if words[0].startswith((*OTHERS, "PYTHONPATH=")) or words[:3] == ["-d"]:
                    continue  # own code is run below
                if "-m" in words and "gantry.runs.tracking.deliver" in words:
                    continue
                if words[0].endswith("python") and words[1:3] == ["-m", "pytest"]:
                    continue
                scripts = [word for word in words if word in ("train.py", "evaluate.py", "sample.py", "compare.py")]
                assert scripts, f"{name(page)}: {words}"
                for overrides in jobs(words[words.index(scripts[0]) + 1 :], ends=(0, -1) if page == README else (-1,)):
                    if (form := (scripts[0], *map(form_of, overrides))) not in checked:
                        checked.add(form)
                        compose(scripts[0].removesuffix(".py"), list(overrides))
    assert len(checked) > 25


def form_of(override):
    """A choice of a group as it is, and of any other override the key, whose value matters little here."""
    key = override.partition("=")[0]
    return override if "@" in key or (ROOT / "conf" / key).is_dir() else key


def jobs(words, ends):
    """The first (0) and the last (-1) job of a sweep, or the one run there is; what is Hydra's own is left out."""
    words = [word for word in words if "=" in word and not word.startswith(("-", "hydra"))]
    quoted = [re.sub(r"^filter=(.*)$", r'filter="\1"', word) for word in words]
    sweeps = OverridesParser.create().parse_overrides(quoted)
    return {tuple(one_of(override, end) for override in sweeps) for end in ends}


def one_of(override, end):
    if not override.is_sweep_override():
        return override.input_line
    value = override.value()
    if isinstance(value, IntervalSweep):
        return f"{override.key_or_group}={(value.start, value.end)[end]}"
    if isinstance(value, ChoiceSweep):
        return f"{override.key_or_group}={value.list[end]}"
    return f"{override.key_or_group}={list(value.range())[end]}"


@pytest.fixture
def here(typed, cache, tmp_path, monkeypatch):
    """A user's folder; runs a line as typed there, with more overrides, and has it succeed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GANTRY_CACHE", str(cache))
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def run(line, *more):
        words = shlex.split(line)
        script = next(word for word in words if word.endswith(".py"))
        main = runpy.run_path(str(ROOT / script))["main"]
        # A sweep is run as its first job: a process for each would take most of a minute.
        given = [re.sub(r"^(model|seed)=([^,]*),.*", r"\1=\2", word) for word in words[words.index(script) + 1 :]]
        given = sorted([*(word for word in given if word != "-m"), *more], key=lambda word: not word.startswith("--"))
        code, out, errors = typed(main, *given)
        assert code == 0, f"{line}\n{out}{errors}"
        return out

    yield run
    for module in set(sys.modules) - before:
        if str(getattr(sys.modules[module], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[module]


def write_blocks(page, folder):
    """Each block with a file's name in its first comment, but for Hydra's own, as that file."""
    for block in blocks(page, "(?:python|yaml)"):
        if match := re.match(r"(?:# @.*\n)?# ([\w/]+\.(?:py|yaml))", block):
            (folder / match[1]).parent.mkdir(parents=True, exist_ok=True)
            (folder / match[1]).write_text(block)


def test_the_readme_can_be_typed(here, tmp_path):
    lines = [" ".join(words) for words in commands(README)]
    assert "fid_classifier" in here("python train.py", *SMALL)
    run = next((tmp_path / "outputs").glob("*/*_dcgan_digits"))
    assert_files_are_described(run)
    read_the_record(run)

    for line in lines:
        if line.startswith("python evaluate.py run=latest protocol=quick"):
            assert "fid_classifier" in here(line, "n=64", "measures=[fid,classes]", "tracking=none")
        elif line.startswith("python sample.py") and "run=best" not in line:
            here(
                line.replace("n=50000", "n=70"),
                "tracking=none",
                *(["n=2", "frames=2"] if "interpolate" in line else []),
            )
    here(
        "python sample.py run=latest export=sent licence=CC-BY-4.0",
        "tracking=none",
        "formats=[safetensors,torchscript]",
    )
    run_code("export-and-share.md")
    assert Path("drawn.png").exists()
    run_code("add-a-metric.md")


def read_the_record(run):
    run_code("callbacks-and-loggers.md")


def run_code(guide):
    """Execute a guide's Python, here."""
    for block in blocks(GUIDES / guide, "python"):
        exec(compile(block, guide, "exec"), {})


def assert_files_are_described(run):
    page = (ROOT / "docs" / "reference" / "files-of-a-run.md").read_text()
    rows = re.findall(r"(?m)^\| (`.*?) \|", page)
    known = [re.sub(r"<\w+>", "*", text) for row in rows for text in re.findall(r"`([^`]+)`", row)]
    files = [path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()]
    strange = [file for file in files if not any(fnmatch.fnmatch(file, f"{k}*" if k[-1] == "/" else k) for k in known)]
    assert strange == []


@pytest.mark.parametrize(
    "page",
    [
        README,
        *(GUIDES / f"add-a-{what}.md" for what in ("variant", "network", "dataset")),
        GUIDES / "add-an-extractor.md",
    ],
    ids=name,
)
def test_own_code_runs(page, here, tmp_path):
    write_blocks(page, tmp_path)
    lines = [" ".join(words) for words in commands(page) if words[0] == "PYTHONPATH=."]
    assert lines
    for line in lines:
        if "evaluate.py" in line:
            here("python train.py", *SMALL)
            here(line, "n=64", "measures=[fid]", "tracking=none")
        else:
            steps = ["steps=2"] if "steps=" in line else []
            here(line, f"--config-dir={tmp_path}/conf", *SMALL, *steps, "max_images=100")
