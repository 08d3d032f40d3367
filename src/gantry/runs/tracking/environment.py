"""Records a run's environment: package versions, hardware and the state of the git checkout."""

import getpass
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "gantry-gan",
    "torch",
    "torchvision",
    "pytorch-lightning",
    "hydra-core",
    "omegaconf",
    "torchmetrics",
    "torch-fidelity",
    "mlflow",
    "mlflow-skinny",
    "scikit-learn",
    "numpy",
    "pillow",
    "safetensors",
)
# New files that a run may read, as git names them from the top of a checkout.
READ = (":(top)src", ":(top)conf", ":(top)examples", ":(top,glob)*.py", ":(top,glob)*.yaml")


def environment() -> dict[str, Any]:
    """Return Python, platform, CPUs, GPUs and package versions, without importing anything.

    GPUs are included where torch is already imported and sees them: their names, and which of the machine's they are
    where CUDA_VISIBLE_DEVICES says so.
    """
    record: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "packages": {name: version for name in PACKAGES if (version := _version(name)) is not None},
    }
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        record["cuda"] = torch.version.cuda
        record["gpus"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        if "CUDA_VISIBLE_DEVICES" in os.environ:
            record["cuda_visible_devices"] = os.environ["CUDA_VISIBLE_DEVICES"]
    return record


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def git_state(folder: Path) -> dict[str, str]:
    """Return `git.commit` and `git.dirty` of the checkout around `folder`.

    `git.dirty` is "true" where a tracked file is changed, or a new one lies below src, conf or examples, or is a .py
    or a .yaml at the top. What commands write, such as `out=samples.npz` and `export=sent`, changes no later run.

    Empty outside a checkout, before the first commit, and where git is missing or does not answer.
    """
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        changes = _git(folder, "status", "--porcelain", "--untracked-files=no") or _git(
            folder, "ls-files", "--others", "--exclude-standard", "--", *READ
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"git.commit": commit, "git.dirty": "true" if changes else "false"}


def _git(folder: Path, *arguments: str) -> str:
    # Without this option `status` would write the index, in conflict with git commands of the user.
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()


def origin() -> dict[str, str]:
    """Return the tags that MLflow's run table shows as the user and the source."""
    tags = {"mlflow.source.name": sys.argv[0] or "<console>", "mlflow.source.type": "LOCAL"}
    try:
        return tags | {"mlflow.user": getpass.getuser()}
    except (KeyError, OSError, ImportError):  # a container may run under a user id without a name
        return tags
