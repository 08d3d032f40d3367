"""Registers Gantry's search with Hydra: `python train.py -m hydra/sweeper=gantry_optuna key=interval(...) ...`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from gantry.core.config.declaration import declared
from gantry.core.config.options import WHILE_TRAINING, Train
from gantry.core.errors import UserError
from gantry.core.processes.devices import jobs_at_once, visible_gpus
from gantry.sweeps.search import STUDY_FILE, Search, check_options
from gantry.sweeps.search_space import read_space
from gantry.training.rules import check_run


class GantryOptuna(Sweeper):
    """Runs the trials of a search in batches, of as many as the launcher runs at once.

    Args:
        n_trials: number of trials of the whole search.
        sampler: one of `gantry.sweeps.search.SAMPLERS`.
        seed: of the proposals.
        params: a search space in YAML, with keys as on the command line, which takes precedence.
    """

    config: DictConfig
    hydra_context: HydraContext

    def __init__(self, n_trials: int, sampler: str, seed: int, params: DictConfig) -> None:
        self.n_trials, self.sampler, self.seed, self.params = n_trials, sampler, seed, params

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store what `sweep` needs; called by Hydra."""
        self.hydra_context, self.config = hydra_context, config
        self.launch = (
            Plugins.instance()
            .instantiate_launcher(hydra_context=hydra_context, task_function=task_function, config=config)
            .launch
        )

    def sweep(self, arguments: list[str]) -> None:
        """Search until `n_trials` trials have run, or `sweep.max_failures` jobs have failed.

        Raises:
            UserError: the search cannot work; no job has been started.
        """
        check_options(self.n_trials, self.sampler, self.seed)
        check_jobs(self.config)
        folder = Path(self.config.hydra.sweep.dir)
        if (folder / STUDY_FILE).exists() and self.config.sweep.resume is None:
            raise UserError(f"{folder} holds a search; go on with it by sweep.resume={folder}")
        written = [f"{key!s}={value}" for key, value in self.params.items()]
        space = read_space([*written, *arguments], self.hydra_context.config_loader)
        higher = _higher_is_better(self.config)
        search = Search(space, self.n_trials, self.sampler, self.seed, folder, higher)
        at_once, most = _at_once(self.config), self.config.sweep.max_failures
        failures = 0
        while (most is None or failures < most) and (trials := search.next(at_once, self._refusal)):
            overrides = [trial.overrides for trial in trials]
            for trial, job in zip(trials, self.launch(overrides, initial_job_idx=trials[0].job), strict=True):
                # Reading `return_value` would raise what the job raised.
                value: Any = job._return_value
                if job.status == JobStatus.COMPLETED:
                    search.tell(trial, value)
                else:
                    failures += 1
                    search.tell(trial, None, str(value), getattr(value, "kind", None))
        search.save()
        print(search.report(), flush=True)

    def _refusal(self, overrides: list[str]) -> str | None:
        config = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.num, config.hydra.job.id = 0, "0"
        HydraConfig.instance().set_config(config)
        with open_dict(config):
            del config["hydra"]
        try:
            check_run(config)
        except UserError as error:
            return str(error)
        return None


def _higher_is_better(config: DictConfig) -> bool:
    """The direction of the first metric, whose best value a job returns."""
    measures = OmegaConf.select(config, "metrics.measures") or [*WHILE_TRAINING]
    if measures[0] == WHILE_TRAINING[0]:
        return False
    from gantry.evaluation.metrics.metric import built  # which imports torch

    first = OmegaConf.to_container(OmegaConf.create([measures[0]]), resolve=True)
    return next(iter(built(first)[0].directions.values()), False)  # type: ignore[arg-type]


def check_jobs(config: DictConfig) -> None:
    """Refuse numbers of jobs that are none: they size the first batch, before the config of any trial is checked.

    Raises:
        UserError: names the valid values.
    """
    for key in ("sweep.jobs", "sweep.jobs_per_device"):
        option, value = declared(Train)[key], OmegaConf.select(config, key)
        assert option.kind is not None
        if not option.kind.accepts(value) or (isinstance(value, int) and value < 1):
            raise UserError(f"{key}: must be {option.values}, not {value}")


def _at_once(config: DictConfig) -> int:
    """Return how many jobs run at once: `sweep.jobs`, or with auto one on a CPU, else as many as the GPUs hold."""
    if config.sweep.jobs != "auto":
        return int(config.sweep.jobs)
    return max(1, jobs_at_once(config.trainer, len(visible_gpus()), config.sweep.jobs_per_device))


@dataclass
class GantryOptunaConf:
    """The search's config."""

    _target_: str = "hydra_plugins.gantry_optuna.GantryOptuna"
    n_trials: int = 20
    sampler: str = "gp"
    seed: int = "${oc.select:seed,0}"  # type: ignore[assignment]
    params: dict[str, Any] = field(default_factory=dict)


ConfigStore.instance().store(group="hydra/sweeper", name="gantry_optuna", node=GantryOptunaConf, provider="gantry")
