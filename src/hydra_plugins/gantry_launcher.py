"""Makes Gantry's launcher known to Hydra, which looks for plugins in this namespace package."""

from dataclasses import dataclass

from hydra.core.config_store import ConfigStore

from gantry.sweeps.launcher import ProcessLauncher


class GantryLauncher(ProcessLauncher):
    """Hydra instantiates only classes that live here."""


@dataclass
class GantryLauncherConf:
    """The launcher's config."""

    _target_: str = "hydra_plugins.gantry_launcher.GantryLauncher"


ConfigStore.instance().store(group="hydra/launcher", name="gantry", node=GantryLauncherConf, provider="gantry")
