"""Runs a command through Hydra, and shows a user's mistake as one clear message without a traceback.

Exit codes: 0 done, 1 failed, 2 refused (a mistake of the user's), 130 interrupted.
"""

import atexit
import difflib
import functools
import gc
import logging
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal import utils as hydra_utils
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.hydra import Hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from gantry.core import output, redaction
from gantry.core.config.options import COMMANDS
from gantry.core.config.overrides import quoted, sweep_flag_first
from gantry.core.config.reference import SHARED, help_text
from gantry.core.config.signatures import signature
from gantry.core.config.typed import as_typed
from gantry.core.errors import FAILED, INTERRUPTED, REFUSED, JobFailed, PeerFailed, RunFailed, UserError
from gantry.core.processes.parent_watch import LEASH
from gantry.core.redaction import redact
from gantry.core.replaced import replaced
from gantry.core.text import did_you_mean
from gantry.runs.tracking import variables

# Hydra's message where a group is chosen with a +; its advice is for a YAML file.
_SECOND_CHOICE = re.compile(r"Multiple values for (?P<name>\S+)\. .*'override \S+: (?P<choice>[^']*)'")
RECORDED = ("train",)  # commands whose work is all in a run's folder, so that the output only tells of it


def run(
    task: Callable[[DictConfig], Any],
    config_dir: Path,
    config_name: str,
    around: AbstractContextManager[None] | None = None,
) -> None:
    """Compose the config from the command line and run `task` on it, or (with -m) on the config of each job of a sweep.

    HYDRA_FULL_ERROR=1 adds tracebacks to the messages; the exit codes stay.

    Args:
        task: called with the job's config; raises `UserError` for a config that cannot work.
        config_dir: the absolute path of the folder of configs.
        config_name: the primary config in it, without ".yaml".
        around: a context for the whole command; it is entered before Hydra reads the command line.

    Raises:
        SystemExit: the command has not succeeded; it has one of the codes above, or is the task's own.
    """
    assert logging.lastResort is not None  # shows what is logged before Hydra has set logging up
    logging.lastResort.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"))
    atexit.register(gc.freeze)  # saves Python's last garbage collection, 0.3 s
    with output.shown() as (shown, _):
        _run(task, config_dir, config_name, around)
        if (said := output.loss(shown)) and config_name not in RECORDED:
            _stop(said, FAILED)


def _run(
    task: Callable[[DictConfig], Any], config_dir: Path, config_name: str, around: AbstractContextManager[None] | None
) -> None:
    """Do what `run` does, while output that cannot be written is dropped."""
    OmegaConf.register_new_resolver("gantry.help", help_text, replace=True)
    variables.drop_empty()
    jobs = _Jobs()
    main = hydra.main(config_path=str(config_dir), config_name=config_name, version_base="1.3")
    try:
        if config_name in COMMANDS:
            # A job's or a rank's were taken as typed by the process that started it, and may hold Hydra's escapes.
            typed = sys.argv[1:] if LEASH in os.environ else as_typed(sys.argv[1:], COMMANDS[config_name])
            sys.argv[1:] = sweep_flag_first(typed)
        with (
            _exceptions_kept(),
            _shared_files_left_out(),
            _composed_once(),
            redaction.kept_out(),
            around or nullcontext(),
        ):
            main(jobs.watch(task))()
    except KeyboardInterrupt:
        _stop("interrupted", INTERRUPTED)
    except JobFailed:
        sys.exit(FAILED)
    except Exception as error:
        if _interrupted(error):
            _stop("interrupted", INTERRUPTED)
        if any(error is failure for failure in jobs.failures):
            if jobs.started > 1:
                print(f"{len(jobs.failures)} of {jobs.started} jobs failed", file=sys.stderr)
            sys.exit(jobs.exit_code())
        message = explain(error)
        if message is None:
            print(redaction.traceback_of(error), end="", file=sys.stderr)
            sys.exit(FAILED)
        _stop(message, REFUSED)


def _interrupted(error: BaseException) -> bool:
    """Return True for an error that Ctrl-C has caused in a library which replaces exceptions, as ones that draw do."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, KeyboardInterrupt):
        cause = cause.__cause__ or cause.__context__
    return cause is not None


def explain(error: Exception) -> str | None:
    """Return the message for a user's mistake; None where the error is no mistake of the user's.

    Args:
        error: a `UserError`, or an error that Hydra raised before the task began.
    """
    cause = error.__cause__
    if isinstance(error, MissingConfigException):
        return _unknown_choice(error)
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and cause.full_key:
        return _unknown_key(cause)
    if isinstance(error, HydraException) and (group := _SECOND_CHOICE.match(str(error))):
        typed = f"{group['name']}={group['choice']}"
        return f"+{typed}: {group['name']} has a place in the config already; it is chosen without the +: {typed}"
    if isinstance(error, HydraException):
        where = _unreadable(str(error.override)) if isinstance(error, OverrideParseException) else []
        lines = [*where, *str(error).splitlines(), *(str(cause).splitlines()[:1] if cause else [])]
        return "\n".join(line for line in lines if line.strip() and not line.startswith("See https://"))
    if isinstance(error, OmegaConfBaseException):
        return f"{error.full_key}: {str(error).splitlines()[0]}" if error.full_key else str(error)
    if isinstance(error, UserError | YAMLError):
        return str(error)
    if not _raised_by_hydra(error):
        return None
    folder = next((e for e in (error, cause) if isinstance(e, OSError) and e.filename), None)
    if folder:
        return (
            f"cannot write to the output folder {folder.filename}: {folder.strerror}; "
            "choose another with hydra.run.dir=/path (in a sweep: hydra.sweep.dir=/path)"
        )
    return str(error) if isinstance(error, ValueError) else None


def _unreadable(override: str) -> list[str]:
    """Return the head of the message for an override that Hydra cannot read, and what to type for plain text."""
    key, _, text = override.partition("=")
    word = f"{key}={quoted(text)}"
    shown = shlex.quote(word) if set(word) & set('"\\$`!') else f'"{word}"'
    is_text = text and text[0] not in "[{'\"" and key.replace(".", "").replace("_", "").lstrip("+").isalnum()
    return [f"cannot read '{override}'", *([f"as plain text it is typed {shown}"] if is_text else [])]


class _Jobs:
    """Counts the jobs of this process and reports each failure when it happens."""

    def __init__(self) -> None:
        self.started = 0
        self.failures: list[Exception] = []

    def watch(self, task: Callable[[DictConfig], Any]) -> Callable[[DictConfig], Any]:
        """Return the task with its failures reported."""

        @functools.wraps(task)
        def watched(cfg: DictConfig) -> Any:
            self.started += 1
            try:
                return task(cfg)
            except Exception as error:
                if _interrupted(error):
                    raise KeyboardInterrupt from error
                if isinstance(error, UserError | RunFailed | PeerFailed) and HydraConfig.get().mode != RunMode.MULTIRUN:
                    # Exiting here keeps Hydra from printing "Error executing job" beside the message.
                    _stop(str(error), REFUSED if isinstance(error, UserError) else FAILED)
                self.failures.append(error)
                _report_job(error)
                raise

        return watched

    def exit_code(self) -> int:
        """Return the exit code of a sweep with failures: `REFUSED` if all are mistakes of the user's."""
        return REFUSED if all(isinstance(error, UserError) for error in self.failures) else FAILED


def _report_job(error: Exception) -> None:
    job = HydraConfig.get()
    if job.mode == RunMode.MULTIRUN:
        print(redact(f"job {job.job.num} ({' '.join(job.overrides.task)}) failed:"), file=sys.stderr)
    if isinstance(error, UserError | JobFailed):
        print(redact(str(error)), file=sys.stderr)
    else:
        print(redaction.traceback_of(error), end="", file=sys.stderr)


def _stop(message: str, code: int) -> NoReturn:
    if os.environ.get("HYDRA_FULL_ERROR") == "1" and (error := sys.exception()):
        print(redaction.traceback_of(error), end="", file=sys.stderr)
    print(redact(message), file=sys.stderr)
    sys.exit(code)


@contextmanager
def _exceptions_kept() -> Iterator[None]:
    """Let exceptions pass through Hydra, which otherwise prints them in its own way and exits with 1.

    HYDRA_FULL_ERROR=1 has the same effect, but child processes, such as a sweep's jobs, would inherit it.
    """
    original = hydra_utils.run_and_report

    def run(func: Any) -> Any:
        return func()

    hydra_utils.run_and_report = run
    try:
        yield
    finally:
        hydra_utils.run_and_report = original


@contextmanager
def _shared_files_left_out() -> Iterator[None]:
    """Leave files that the choices of a group share out of what Hydra lists: the choices, and what glob(*) matches."""
    listed = ConfigRepository.get_group_options

    def options(self: ConfigRepository, group_name: str, *given: Any, **more: Any) -> list[str]:
        names = listed(self, group_name, *given, **more)
        return [name for name in names if (group_name.strip("/"), name) not in SHARED]

    with replaced(ConfigRepository, "get_group_options", options):
        yield


@contextmanager
def _composed_once() -> Iterator[None]:
    """Spare Hydra composing each config a first time only to learn hydra.mode, which no file of conf/ sets.

    That takes a sixth of the time in which a misspelt option is refused.
    """
    composed = Hydra.get_mode

    def mode(self: Hydra, config_name: str | None, overrides: list[str]) -> Any:
        of_the_user = any(path.provider == "command-line" for path in self.config_loader.get_search_path().get_path())
        asked = of_the_user or any("mode" in text or "searchpath" in text for text in overrides)
        return composed(self, config_name, overrides) if asked else None

    with replaced(Hydra, "get_mode", mode):
        yield


def _unknown_choice(error: MissingConfigException) -> str:
    # Hydra's first line names the file and its missing choice; the rest is the search path.
    message = str(error).splitlines()[0]
    group, _, choice = (error.missing_cfg_file or "").rpartition("/")
    if not error.options:
        return message
    return f"{message}{did_you_mean(choice, error.options)}\nchoices of {group}: {', '.join(error.options)}"


def _unknown_key(cause: ConfigKeyError | ConfigAttributeError) -> str:
    """Return a message with the options beside the unknown one and the closest options of the whole config."""
    key = str(cause.full_key)
    root = cause.parent_node
    while root._get_parent() is not None:
        root = root._get_parent()
    tree: Any = OmegaConf.to_container(root, resolve=False)
    beside = tree
    for part in key.split(".")[:-1]:
        beside = beside.get(part) if isinstance(beside, dict) else None
    parent, _, name = key.rpartition(".")
    if _is_taken(name, beside):
        return f"{key}: not in this config, which may have it: +{key}=... adds it"
    names = sorted(str(name) for name in beside if name != "hydra") if isinstance(beside, dict) else []
    options = f"options of {parent}" if parent else "options"
    return f"{key}: no such option{_closest_keys(key, tree)}\n{options}: {', '.join(names) or 'none'}"


def _is_taken(name: str, beside: object) -> bool:
    """Return True where the `_target_` of a group takes an argument that its config does not give."""
    target = beside.get("_target_") if isinstance(beside, dict) else None
    try:
        read = signature(target) if isinstance(target, str) else None
    except UserError:
        return False
    return read is not None and read.get(name) is not None


def _closest_keys(key: str, tree: dict[str, Any]) -> str:
    keys = [k for k in _keys(tree) if k.startswith("hydra.") == key.startswith("hydra.")]
    close = difflib.get_close_matches(key, keys, n=1, cutoff=0.75)
    if not close:
        last = [k.rpartition(".")[2] for k in keys]
        names = difflib.get_close_matches(key.rpartition(".")[2], last, n=1, cutoff=0.75)
        close = [k for k, name in zip(keys, last, strict=True) if name in names][:3]
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


def _keys(tree: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, child in tree.items():
        yield f"{prefix}{name}"
        if isinstance(child, dict):
            yield from _keys(child, f"{prefix}{name}.")


def _raised_by_hydra(error: Exception) -> bool:
    """Return True if Hydra, or the standard library called by Hydra, raised the error."""
    modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    tops = [module.partition(".")[0] for module in modules]
    return [top for top in tops if top not in sys.stdlib_module_names][-1:] == ["hydra"]
