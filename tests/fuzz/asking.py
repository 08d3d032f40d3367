"""Asks the real configs for everything at random; run as a program, so that it shows what gets imported.

python asking.py <examples>: exits with 0 where all that was asked for was either taken, or refused in a user's words
that name what is at fault.
"""

import functools
import sys
import traceback
import warnings
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hypothesis import HealthCheck, Phase, example, given, note, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf, open_dict

from gantry.commands import evaluate
from gantry.commands.cli import explain
from gantry.training.rules import check_run

CONF = Path(__file__).parents[2] / "conf"
CHECKS = {"train": check_run, "evaluate": evaluate._check}
NEEDED: dict[str, tuple[str, ...]] = {"train": (), "evaluate": ("run=latest",)}
GROUPS = {
    "train": ("data", "model", "metrics", "trainer", "tracking", "experiment", "model/network", "model/optimizer"),
    "evaluate": ("data", "protocol", "extractor", "tracking"),
}
SLOW = {"torch", "mlflow", "pytorch_lightning", "torchvision"}
TYPED = [  # texts with a meaning of their own, to Hydra, YAML, Python or us
    *(
        "0",
        "-1",
        "1",
        "2",
        "7",
        "1e3",
        "0.5",
        "-0.5",
        "1e400",
        "nan",
        "inf",
        "-inf",
        "9" * 400,
        "2e-324",
        "1_0",
        "0x10",
    ),
    *("", "''", "null", "true", "None", "???", "auto", "latest", "a b", "a,b", "1,2", "[]", "[1]", "[[1]]", "{}"),
    *("{a: 1}", "{_target_: os.system}", "{_target_: 3}", "{_target_: [a]}", "[{_target_: gantry}]", "${seed}", "${x"),
    *(
        "${nosuch}",
        "${oc.env:NO_SUCH_VARIABLE}",
        "${nosuch:1}",
        "${oc.decode:[}",
        "\\${x}",
        "é",
        "雪",
        "🦆",
        "\u202e",
        "'",
    ),
    *(
        '"',
        "(",
        "]",
        "}",
        "range(3)",
        "choice(1,2)",
        "glob(*)",
        "interval(0,1)",
        "sort(3)",
        "x=y",
        "=",
        "a:b",
        "%",
        "\\",
    ),
    *(
        "../../x",
        "/",
        "~",
        "http://",
        "http://user:word@",
        "sqlite://",
        "file:///x",
        "s3://x",
        "gantry.nosuch.X",
        "a" * 5000,
    ),
]
VALUES: list[object] = [
    *(0, -1, 1, 3, 10**30, -(2**63), 0.5, -1.5, float("nan"), float("inf"), True, False, None),
    *("", " ", "x", "1", "é雪", "\x00", "nan", "torch.optim.Adam", "/", "a" * 5000),
    *(
        [],
        [1],
        [None],
        [[]],
        {},
        {"a": 1},
        {"_target_": "os.system"},
        {"_target_": None},
        {"_target_": "gantry.models.module"},
    ),
    *(
        {"_target_": "gantry.models.losses.hinge", "x": 1},
        {"_target_": ""},
        {"_target_": "..."},
        {"_target_": "torch.nn."},
    ),
]
values = st.one_of(
    st.sampled_from(VALUES),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.integers() | st.text(max_size=3) | st.none(), max_size=3),
    st.dictionaries(st.text(max_size=5) | st.integers(), st.integers() | st.text(max_size=3), max_size=2),
)
texts = st.one_of(st.sampled_from(TYPED), st.integers().map(str), st.floats().map(str), st.text(max_size=12))


def composed(name: str, *overrides: str) -> DictConfig:
    """The job's config as the command line would make it."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        whole = compose(name, [*NEEDED[name], *overrides], return_hydra_config=True)
    with open_dict(whole):
        whole.hydra.runtime.cwd = "/nowhere"
    HydraConfig.instance().set_config(whole)
    return OmegaConf.masked_copy(whole, [key for key in whole if key != "hydra"])


def answer(name: str, *overrides: str) -> str | None:
    """What the user is told; None where it is taken. Whatever is no answer is raised."""
    try:
        CHECKS[name](composed(name, *overrides))
    except Exception as error:
        if (message := explain(error)) is None:
            raise
        return message
    return None


def leaves(node: object, key: str = "") -> list[str]:
    """The dotted keys of a config's values, but for interpolations within lists."""
    if isinstance(node, dict) and node:
        return [leaf for name, child in node.items() for leaf in leaves(child, f"{key}.{name}".lstrip("."))]
    return [key]


def choices(name: str) -> list[tuple[str, ...]]:
    """Each choice of each group, as words of the command line."""
    there = [(f"{group}={path.stem}",) for group in GROUPS[name] for path in sorted((CONF / group).glob("*.yaml"))]
    taken = [words for words in there if words != ("model=base",)]
    return [(), *((*words, "data.folder=/images") if words == ("data=image_folder",) else words for words in taken)]


@functools.cache
def base(name: str, words: tuple[str, ...]) -> tuple[DictConfig, list[str]]:
    """A config to change something in, and the keys of its values."""
    made = composed(name, *words)
    return made, leaves(OmegaConf.to_container(made, resolve=False))


@st.composite
def placed(draw: st.DrawFn) -> tuple[str, tuple[str, ...], str]:
    """A config's name, the choices of its groups, and the key of one of its values."""
    name = draw(st.sampled_from(sorted(CHECKS)))
    words = draw(st.sampled_from(choices(name)))
    return name, words, draw(st.sampled_from(base(name, words)[1]))


@given(placed(), values)
def any_value(place: tuple[str, tuple[str, ...], str], value: object) -> None:
    """One value is anything, of any type."""
    name, words, key = place
    config = base(name, words)[0].copy()
    try:
        with open_dict(config):
            OmegaConf.update(config, key, value)
        CHECKS[name](config)
    except Exception as error:
        message = explain(error)
        note(f"{name} {words} {key}={value!r}: {message}")
        if message is None:
            raise
        assert key.rpartition(".")[2] in message or key.partition(".")[0] in message


@given(placed(), texts, st.sampled_from(["", "", "", "+", "++", "~"]))
@example(("train", (), "steps"), "'", "")
@example(("train", (), "seed"), "${oc.env:NO_SUCH_VARIABLE}", "")
def any_text(place: tuple[str, tuple[str, ...], str], text: str, sign: str) -> None:
    """One option is given any text, as it is typed."""
    name, words, key = place
    message = answer(name, *words, f"{sign}{key}={text}")
    note(f"{name} {words} {sign}{key}={text}: {message}")
    assert message is None or key.rpartition(".")[2] in message


@given(placed(), st.data())
def misspelt(place: tuple[str, tuple[str, ...], str], data: st.DataObject) -> None:
    """A key with a letter less, more or another is refused with a key that there is."""
    name, words, key = place
    at = data.draw(st.integers(0, len(key) - 1))
    letter = data.draw(st.sampled_from("aeiztq"))
    wrong = data.draw(st.sampled_from([key[:at] + key[at + 1 :], key[:at] + letter + key[at:], key + letter]))
    if wrong in base(name, words)[1] or wrong.startswith(("hydra", ".")) or ".." in wrong or wrong.endswith("."):
        return
    message = answer(name, *words, f"{wrong}=1")
    note(f"{name} {words} {wrong}: {message}")
    if not any(known.startswith(f"{wrong}.") for known in base(name, words)[1]):
        assert message is not None
        assert any(word in message for word in ("did you mean", "options", "choices", "group override"))


@given(st.sampled_from([(name, group) for name, groups in GROUPS.items() for group in groups]), texts)
def any_choice(group: tuple[str, str], text: str) -> None:
    """A group is given any choice."""
    name, which = group
    message = answer(name, f"{which}={text}")
    note(f"{name} {which}={text}: {message}")
    if text.isidentifier() and text.isascii() and text not in ("null", "true", "None", "auto", "latest"):
        assert message is not None
        assert which in message or "Config group override must be a string" in message  # Hydra's of `data=nan`


@given(st.sampled_from(sorted(CHECKS)), st.lists(texts | st.text("=[]{}(),:.$'\"~+@/ \\ax1", max_size=9), max_size=3))
def any_words(name: str, words: list[str]) -> None:
    """The command line is anything."""
    note(f"{name} {words}: {answer(name, *words)}")


def main() -> None:
    """Ask so many of each kind."""
    count = int(sys.argv[1])
    warnings.simplefilter("ignore")
    failed = []
    for kind, part in ((any_value, 4), (any_text, 1), (misspelt, 0.5), (any_choice, 0.5), (any_words, 0.5)):
        profile = settings(
            max_examples=max(2, int(part * count)),
            derandomize=len(sys.argv) == 2,
            deadline=None,
            database=None,
            phases=[Phase.explicit, Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        try:
            profile(kind)()
        except BaseException:  # hypothesis puts several in a group
            traceback.print_exc()
            failed.append(kind.__name__)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")
    if slow := SLOW & set(sys.modules):
        sys.exit(f"imported: {slow}")


if __name__ == "__main__":
    main()
