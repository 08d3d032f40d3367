"""Makes the paths of a config absolute, so that a run's record means the same from every folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from gantry.core.config.declaration import declared, within
from gantry.core.config.options import PLACES, Train
from gantry.core.config.overrides import quoted

NOTHING = ("", "null", "None")
PATHS = [  # options that are paths of files; the store may be an address
    key
    for key, one in declared(Train).items()
    if not one.is_group and within(key, PLACES) and not within(key, ["tracking"])
]
NAMED = ("init_from",)  # of these, options that may hold a name of the store in place of a path


def make_absolute(cfg: DictConfig) -> None:
    """Make the paths in a run's config absolute, in place; links are kept.

    Options that are absent, null or missing stay as they are.
    """
    for key in PATHS:
        value = OmegaConf.select(cfg, key, throw_on_missing=False)
        if isinstance(value, str) and value not in NOTHING:
            OmegaConf.update(cfg, key, _place(key, value, absolute(value, Path.cwd())))


def absolute(path: str, base: Path) -> str:
    """Return a path that is relative to `base`, or to a home folder (~), as an absolute one."""
    try:
        return str(base / Path(path).expanduser())
    except RuntimeError:  # there is no such user; whoever opens the path says so
        return path


def _place(key: str, value: str, path: str) -> str:
    """Return the absolute path of an option's value; the value itself where it is the name of a run or a model."""
    return value if key in NAMED and not Path(path).exists() else path


@dataclass(frozen=True)
class Home:
    """The folder in which a run was started, to which its relative paths refer.

    Attributes:
        then: its path at that time.
        now: its path now, which differs where the run's project was moved or copied since.
    """

    then: Path
    now: Path

    def path(self, path: str) -> str:
        """Return a path of the run's record as an absolute one of today.

        One in a project that was moved or copied is the moved one, if that exists.
        """
        whole = Path(absolute(path, self.now))
        if self.now != self.then and whole.is_relative_to(self.then):
            moved = self.now / whole.relative_to(self.then)
            return str(moved if moved.exists() else whole)
        return str(whole)

    def params(self, params: Mapping[str, str]) -> dict[str, str]:
        """Return a run's params, by dotted key, with the paths of today."""
        return {
            key: _place(key, value, self.path(value)) if key in PATHS and value not in NOTHING else value
            for key, value in params.items()
        }


def overrides_from(base: Path, overrides: Sequence[str]) -> list[str]:
    """Return overrides with those paths absolute that are relative to `base`; interpolations stay."""
    return [_override_from(base, text) for text in overrides]


def _override_from(base: Path, override: str) -> str:
    key, _, value = override.partition("=")
    path = value[1:-1].replace("\\'", "'") if value[:1] == value[-1:] and value[:1] in ("'", '"') else value
    if key.lstrip("+") not in PATHS or path in NOTHING or "${" in path:
        return override
    return (
        override if (whole := _place(key.lstrip("+"), path, absolute(path, base))) == path else f"{key}={quoted(whole)}"
    )
