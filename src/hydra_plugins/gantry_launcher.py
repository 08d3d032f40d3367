"""Registers Gantry's launcher with Hydra, which finds plugins in this namespace package."""

from dataclasses import dataclass

from hydra.core.config_store import ConfigStore

from gantry.sweeps.launcher import ProcessLauncher


class GantryLauncher(ProcessLauncher):
    """`ProcessLauncher` under a name in this package, since Hydra instantiates only plugins defined here."""


@dataclass
class GantryLauncherConf:
    """The launcher's config."""

    _target_: str = "hydra_plugins.gantry_launcher.GantryLauncher"


ConfigStore.instance().store(group="hydra/launcher", name="gantry", node=GantryLauncherConf, provider="gantry")
