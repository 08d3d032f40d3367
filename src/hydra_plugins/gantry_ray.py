"""Runs the jobs of a sweep on a Ray cluster: `python train.py -m hydra/launcher=ray ...`.

The options are those of hydra-ray-launcher, which is not used because its pins (cloudpickle<3, where joblib needs 3)
conflict with scikit-learn, and because it ends the sweep when Ray loses one worker.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from gantry.core.errors import JobFailed, UserError
from gantry.core.processes.signals import Stop, deferred, undisturbed
from gantry.sweeps.job import GRACE

TICK = 0.5  # seconds between two checks for signals


class GantryRay(Launcher):
    """Submits all jobs to Ray at once, and waits for them.

    Args:
        ray: `init`, the options of ray.init (address: auto is a running cluster, null a new one for this sweep), and
            `remote`, the resources of a job (num_cpus, num_gpus, resources, ...).
    """

    def __init__(self, ray: DictConfig) -> None:
        self.options: dict[str, Any] = OmegaConf.to_container(ray, resolve=True)  # type: ignore[assignment]

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store what `launch` needs; called by Hydra."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run one job for each list of overrides.

        Raises:
            UserError: Ray is not installed.
        """
        try:
            import ray
        except ImportError as error:
            raise UserError("Ray is not installed: pip install 'gantry-gan[ray]'") from error
        setup_globals()
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)  # resolved once for all jobs
        stop = Stop()
        if not ray.is_initialized():
            ray.init(**self.options["init"])
        gpus = {"num_gpus": 1} if ray.cluster_resources().get("GPU") else {}  # without it Ray hides the GPUs
        # The sweep resumes a lost job; Ray must not restart it in a folder that holds its first half.
        remote = ray.remote(max_retries=0, **gpus | self.options["remote"])(_run)
        state = Singleton.get_state()
        waiting = []
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
            with open_dict(config):
                config.hydra.job.num, config.hydra.job.id = number, str(number)
            waiting.append((overrides, remote.remote(self.hydra_context, self.task_function, config, state)))
        # Ray's own handler of SIGTERM aborts the process, and an exception raised in ours is lost in Ray's calls.
        left = [reference for _, reference in waiting]
        try:
            with deferred(stop):
                while left:
                    _, left = ray.wait(left, num_returns=len(left), timeout=TICK)
                    stop.check()
        except BaseException:
            with undisturbed():  # Ray's shutdown would kill the jobs before they have written their checkpoints
                for reference in left:
                    ray.cancel(reference)
                ray.wait(left, num_returns=len(left), timeout=GRACE)
            raise
        returned = []
        for overrides, reference in waiting:
            try:
                returned.append(ray.get(reference))
            except ray.exceptions.RayError as error:
                failure = JobFailed(f"Ray lost it: {error}")
                returned.append(JobReturn(list(overrides), status=JobStatus.FAILED, _return_value=failure))
        return returned


def _run(context: HydraContext, task: TaskFunction, config: DictConfig, state: dict[Any, Any]) -> JobReturn:
    setup_globals()
    Singleton.set_state(state)
    HydraConfig.instance().set_config(config)
    return run_job(
        task_function=task,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
        hydra_context=context,
    )


@dataclass
class RayOptions:
    """Options that are passed to Ray."""

    init: dict[str, Any] = field(default_factory=lambda: {"address": None})
    remote: dict[str, Any] = field(default_factory=dict)


@dataclass
class GantryRayConf:
    """The launcher's config."""

    _target_: str = "hydra_plugins.gantry_ray.GantryRay"
    ray: RayOptions = field(default_factory=RayOptions)


ConfigStore.instance().store(group="hydra/launcher", name="ray", node=GantryRayConf, provider="gantry")
