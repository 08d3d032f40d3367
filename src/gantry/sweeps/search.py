"""Searches hyperparameters: Optuna proposes each trial from the values of earlier trials.

It does not depend on Hydra or on training: trials are lists of overrides, and their values are reported by `tell`. The
study is stored in the sweep's folder, so that a killed search can be resumed.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gantry.core.config.overrides import identity
from gantry.core.errors import DIVERGED, UserError
from gantry.core.text import did_you_mean, show
from gantry.sweeps.search_space import Space

if TYPE_CHECKING:
    import optuna
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial


STUDY_FILE = "study.db"
RESULTS_FILE = "optimization_results.yaml"
SHOWN = 5  # number of the best trials
STUDY = "gantry"  # the study's name in its file
SAMPLERS = ("tpe", "gp", "random")
EARLY = 10  # so many invalid proposals before the first valid one mean that the search space is wrong

JOB, OUTCOME = "job", "outcome"  # user attributes of a trial: its job's number, and why it has no value
FAILED, REFUSED, REPEATS = "failed", "refused", "repeats"  # first words of OUTCOME, as `DIVERGED` is
SPACE, AGAIN = "space", "again"  # user attributes of the study: its space, and the restarted trials


@dataclass(frozen=True)
class Trial:
    """A proposed job.

    Attributes:
        number: its number in the study.
        job: the number of its job in the sweep; a trial without a job uses none.
        overrides: its command line.
    """

    number: int
    job: int
    overrides: list[str]


def check_options(n_trials: int, sampler: str, seed: int) -> None:
    """Refuse invalid options before slow imports and before anything is started.

    Raises:
        UserError: names the choices.
    """
    if n_trials < 1:
        raise UserError(f"hydra.sweeper.n_trials: must be at least 1, not {n_trials}")
    if seed < 0:
        raise UserError(f"hydra.sweeper.seed: must be at least 0, not {seed}")
    if sampler not in SAMPLERS:
        raise UserError(
            f"hydra.sweeper.sampler: must be one of {', '.join(SAMPLERS)}, not {sampler!r}"
            f"{did_you_mean(sampler, SAMPLERS)}"
        )
    if importlib.util.find_spec("optuna") is None:
        raise UserError("Optuna is not installed: pip install 'gantry-gan[search]', or sweep without hydra/sweeper.")


class Search:
    """The trials of one search, stored in a file.

    Args:
        space: the search space; a resumed search must have the same one.
        n_trials: of the whole search, including those of earlier starts.
        sampler: one of `SAMPLERS`.
        seed: of the proposals: the same seed and the same reported values give the same proposals.
        folder: contains the study, or will.
        higher_is_better: True to maximise the reported value; a resumed study keeps its own direction.

    Raises:
        UserError: the study in `folder` has another space.
    """

    def __init__(
        self, space: Space, n_trials: int, sampler: str, seed: int, folder: Path, higher_is_better: bool = False
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        folder.mkdir(parents=True, exist_ok=True)
        self.space, self.n_trials, self.file = space, n_trials, folder.absolute() / STUDY_FILE
        self.study = optuna.create_study(
            storage=f"sqlite:///{self.file}",
            study_name=STUDY,
            direction="maximize" if higher_is_better else "minimize",
            load_if_exists=True,
        )
        self._check_space()
        self._distributions = {key: axis.distribution() for key, axis in space.axes.items()}
        self._interrupted = self._resume_trials()
        # The same seed would repeat the proposals of an earlier start.
        self.study.sampler = _sampler(sampler, seed, len(self.study.trials))

    def _check_space(self) -> None:
        now = {key: repr(axis) for key, axis in self.space.axes.items()}
        now["the fixed overrides"] = " ".join(identity(self.space.fixed))
        before = self.study.user_attrs.get(SPACE, now)
        differ = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        if differ:
            raise UserError(f"{self.file} is the study of another search: they differ in {', '.join(differ)}")
        self.study.set_user_attr(SPACE, now)

    def _resume_trials(self) -> list[Trial]:
        """Return the trials that the end of an earlier start interrupted, and enqueue those whose job failed."""
        interrupted = []
        for trial in self.study.get_trials():
            if trial.state.name == "RUNNING" and JOB in trial.user_attrs:
                overrides = self.space.overrides(trial.params)
                interrupted.append(Trial(trial.number, trial.user_attrs[JOB], overrides))
            elif trial.state.name == "RUNNING":  # the search was killed while the trial was proposed
                self._restart(trial.number)
                self._fail(self._live(trial.number), FAILED, "never begun")
        for trial in self.others(FAILED):
            self._restart(trial.number)
            self.study.enqueue_trial(trial.params)
        return interrupted

    def next(self, size: int, refusal: Callable[[list[str]], str | None]) -> list[Trial]:
        """Return the trials to run now, their jobs numbered in sequence; none when the search is done.

        A proposal that repeats a trial gets that trial's value, since the same config gives the same run.

        Args:
            size: largest number of trials.
            refusal: returns why overrides are invalid; None if they are valid.

        Raises:
            UserError: the proposals at the beginning are all invalid.
        """
        batch, self._interrupted = self._interrupted[:size], self._interrupted[size:]
        if batch:
            return batch
        repeats = self.others(REPEATS)
        run = [trial for trial in self.counted() if trial not in repeats]
        seen = {tuple(self.space.overrides(trial.params)): trial.number for trial in run}
        job = 1 + max((trial.user_attrs[JOB] for trial in self.study.trials if JOB in trial.user_attrs), default=-1)
        while len(batch) < size and len(self.counted()) < self.n_trials:
            asked = self.study.ask(self._distributions)
            overrides = self.space.overrides(asked.params)
            if (same := seen.get(tuple(overrides))) is not None:
                self._repeat(asked, same)
                continue
            seen[tuple(overrides)] = asked.number
            if (reason := refusal(overrides)) is not None:
                self._fail(asked, REFUSED, reason)
                if job == 0 and not batch and len(self.others(REFUSED)) >= EARLY:
                    break
                continue
            asked.set_user_attr(JOB, job + len(batch))
            batch.append(Trial(asked.number, job + len(batch), overrides))
        if job == 0 and not batch and (refused := self.others(REFUSED)):
            raise UserError(f"no trial can work; the last one was {refused[-1].user_attrs[OUTCOME]}")
        return batch

    def tell(self, trial: Trial, value: float | None, failure: str | None = None, kind: str | None = None) -> None:
        """Report the result of a trial.

        Args:
            value: best value of its first metric; None or NaN where it diverged.
            failure: why its job did not finish; None where it did.
            kind: of the failure, see `gantry.core.errors.JobFailed`.
        """
        if failure is not None and kind != DIVERGED:
            self._fail(self._live(trial.number), FAILED, failure)
        elif value is None or not math.isfinite(value):
            self._diverged(self._live(trial.number))
        else:
            self.study.tell(trial.number, value)

    def counted(self) -> list[FrozenTrial]:
        """Return the trials proposed so far, without those that were restarted as another trial."""
        again = set(self.study.user_attrs.get(AGAIN, ()))
        return [t for t in self.study.trials if t.number not in again and t.state.name != "WAITING"]

    def measured(self) -> list[FrozenTrial]:
        """Return the trials with a measured value, best first."""
        sign = -1 if self.study.direction.name == "MAXIMIZE" else 1
        own = (trial for trial in self.counted() if OUTCOME not in trial.user_attrs)
        found = ((sign * trial.value, trial.number, trial) for trial in own if trial.value is not None)
        return [trial for _, _, trial in sorted(found)]

    def others(self, kind: str) -> list[FrozenTrial]:
        """Return the trials without a measured value of one kind: `DIVERGED`, `FAILED`, `REFUSED` or `REPEATS`."""
        return [trial for trial in self.counted() if trial.user_attrs.get(OUTCOME, "").startswith(kind)]

    def save(self) -> None:
        """Write the best trial beside the study, as hydra-optuna-sweeper does."""
        from omegaconf import OmegaConf

        best = next(iter(self.measured()), None)
        values = {
            "name": "optuna",
            "best_params": self.space.values(best.params) if best else {},
            "best_value": best.value if best else None,
        }
        OmegaConf.save(values, self.file.with_name(RESULTS_FILE))

    def report(self) -> str:
        """Return the summary for the user: numbers of trials by result, the best ones, and the study's path."""
        kinds = {kind: len(self.others(kind)) for kind in (DIVERGED, FAILED, REFUSED, REPEATS)}
        ranked = self.measured()
        counts = [f"{len(ranked)} measured", *(f"{count} {kind}" for kind, count in kinds.items() if count)]
        lines = ["", f"search: {len(self.counted())} trials, {', '.join(counts)}"]
        for trial in ranked[:SHOWN]:
            words = " ".join(f"{key}={value}" for key, value in self.space.values(trial.params).items())
            lines.append(f"  {trial.value:10.4g}  job {trial.user_attrs[JOB]}: {words}")
        for trial in self.others(REFUSED)[:1]:
            lines.append(f"  trial {trial.number} was {trial.user_attrs[OUTCOME]}")
        return "\n".join([*lines, f"study: {show(self.file)}"])

    def _diverged(self, trial: optuna.Trial) -> None:
        # Without a value, TPE and GP keep proposing there (GP from 0.72 to 0.04 on a test function).
        if not (measured := self.measured()):
            self._fail(trial, DIVERGED)
            return
        trial.set_user_attr(OUTCOME, f"{DIVERGED}, told the worst value so far")
        self.study.tell(trial, measured[-1].value)

    def _repeat(self, trial: optuna.Trial, same: int) -> None:
        if (value := self.study.trials[same].value) is None:
            self._fail(trial, REPEATS, f"trial {same}")
        else:
            trial.set_user_attr(OUTCOME, f"{REPEATS} trial {same}")
            self.study.tell(trial, value)

    def _fail(self, trial: optuna.Trial, kind: str, reason: str = "") -> None:
        from optuna.trial import TrialState

        trial.set_user_attr(OUTCOME, f"{kind} {reason}".rstrip())
        self.study.tell(trial, state=TrialState.FAIL)

    def _live(self, number: int) -> optuna.Trial:
        from optuna import Trial

        return Trial(self.study, self.study.trials[number]._trial_id)

    def _restart(self, number: int) -> None:
        self.study.set_user_attr(AGAIN, [*self.study.user_attrs.get(AGAIN, ()), number])


def _sampler(name: str, seed: int, before: int) -> BaseSampler:
    import numpy as np
    from optuna import samplers

    mixed = int(np.random.SeedSequence([seed, before]).generate_state(1)[0])
    if name == "random":
        return samplers.RandomSampler(seed=mixed)
    return samplers.GPSampler(seed=mixed) if name == "gp" else samplers.TPESampler(seed=mixed)
