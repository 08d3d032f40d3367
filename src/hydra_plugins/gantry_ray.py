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
from gantry.core.processes.devices import gpus_wanted
from gantry.core.processes.signals import Stop, deferred, undisturbed
from gantry.sweeps.job import GRACE

TICK = 0.5  # seconds between two checks for signals
FINEST = 10_000  # parts of a GPU that Ray can tell apart


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
            UserError: Ray is not installed, or `sweep.jobs_per_device` cannot be kept; no job has been started.
        """
        try:
            import ray
        except ImportError as error:
            raise UserError("Ray is not installed: pip install 'gantry-gan[ray]'") from error
        setup_globals()
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)  # resolved once for all jobs
        jobs = [(overrides, self._config(n, overrides)) for n, overrides in enumerate(job_overrides, initial_job_idx)]
        asked = jobs[0][1].sweep.jobs_per_device
        shared = asked if isinstance(asked, int) and asked > 0 else 1  # each job refuses any other
        check_sharing(shared, [config.trainer for _, config in jobs], self.options["remote"])
        stop = Stop()
        if not ray.is_initialized():
            ray.init(**self.options["init"])
        gpus = part_of_a_gpu(shared, ray.cluster_resources().get("GPU", 0))
        # The sweep resumes a lost job; Ray must not restart it in a folder that holds its first half.
        remote = ray.remote(max_retries=0, **gpus | self.options["remote"])(_run)
        state = Singleton.get_state()
        task = self.hydra_context, self.task_function
        waiting = [(overrides, remote.remote(*task, config, state)) for overrides, config in jobs]
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

    def _config(self, number: int, overrides: Sequence[str]) -> DictConfig:
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.num, config.hydra.job.id = number, str(number)
        return config


def check_sharing(shared: int, trainers: Sequence[DictConfig], remote: dict[str, Any]) -> None:
    """Refuse what contradicts `shared` jobs on a GPU, before Ray starts.

    Args:
        shared: `sweep.jobs_per_device`.
        trainers: of the jobs' configs.
        remote: the resources of a job that the user has chosen.

    Raises:
        UserError: names what to leave out.
    """
    if shared == 1:
        return
    if "num_gpus" in remote:
        raise UserError(f"hydra.launcher.ray.remote.num_gpus: leave it out beside sweep.jobs_per_device={shared}")
    if any(gpus_wanted(trainer, 1) != 1 for trainer in trainers):
        raise UserError(
            f"sweep.jobs_per_device={shared}: under Ray every job has to run on one GPU (trainer.devices=1)"
        )


def part_of_a_gpu(shared: int, there_are: float) -> dict[str, float]:
    """Return the `num_gpus` of a job: 1, or the largest part that Ray gives to `shared` jobs; empty without GPUs.

    Raises:
        UserError: the `there_are` GPUs of the cluster are none, and were to be shared.
    """
    if there_are:
        return {"num_gpus": 1 if shared == 1 else FINEST // shared / FINEST}  # without it Ray hides the GPUs
    if shared > 1:
        raise UserError(f"sweep.jobs_per_device={shared}: the Ray cluster has no GPU to share")
    return {}


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
