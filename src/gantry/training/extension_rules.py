"""Checks the callbacks and loggers in `trainer.callbacks` and `trainer.logger` before Lightning is imported.

Both are lists of nodes with a `_target_`. Classes of Lightning that would break a guarantee of a run are refused.
"""

from collections.abc import Iterator

from gantry.core.config.schema import Config

OPTIONS = ("callbacks", "logger")  # of `trainer`
LIGHTNING = ("pytorch_lightning", "lightning")
_CHECKPOINT = "writes checkpoints that no resume finds; checkpoint.every and checkpoint.keep say what is kept"
_AVERAGE = (
    "writes averages over the trained weights, the discriminator's too; model.ema.half_life averages the generator"
)
_BAR = "shows a second bar; a run has one, of generator steps"
# Classes of Lightning that are refused, with their subclasses. Each text gives the reason and an alternative.
REFUSED = {
    "EarlyStopping": "looks at validation epochs, of which a run has none, and would give runs unequal budgets; "
    "steps is the budget, and generator/best is of the best evaluation",
    "Timer": "would end runs by the clock, with unequal budgets; steps is the budget, and a run stopped by a signal "
    "goes on by resume=",
    "Checkpoint": _CHECKPOINT,
    "ModelCheckpoint": _CHECKPOINT,
    "OnExceptionCheckpoint": "waits for ever where one of several ranks fails; a stopped run keeps a checkpoint",
    "WeightAveraging": _AVERAGE,
    "EMAWeightAveraging": _AVERAGE,
    "StochasticWeightAveraging": _AVERAGE,
    "GradientAccumulationScheduler": "works with automatic optimization only; accumulate adds gradients up",
    "BatchSizeFinder": "would change what a generator step is; choose batch_size, or sweep over it",
    "LearningRateFinder": "trains in steps that nothing counts; sweep over model.optimizer.lr",
    "ModelPruning": "renames the weights, so that the exported generator could not be read; prune what is exported",
    "ProgressBar": _BAR,
    "RichProgressBar": _BAR,
    "TQDMProgressBar": _BAR,
    "MLFlowLogger": "keeps training waiting where the server is away; tracking=mlflow logs there without that",
}


def wrong_extensions(config: Config) -> Iterator[str]:
    """Report an option that is not a list of nodes with a `_target_`, and each class that is in `REFUSED`."""
    for option in OPTIONS:
        key = f"trainer.{option}"
        if key not in config.options:
            continue
        nodes = config.options[key].value
        if not isinstance(nodes, list):
            yield f"{key}: takes a list, '+{key}=[{{_target_: package.module.Name}}]'"
            continue
        for number, node in enumerate(nodes):
            dotted = node.get("_target_") if isinstance(node, dict) else None
            if not isinstance(dotted, str):
                yield f"{key}.{number}: takes a _target_ ({{_target_: package.module.Name}}), not {node}"
            elif dotted.partition(".")[0] in LIGHTNING and (why := REFUSED.get(dotted.rpartition(".")[2])):
                yield f"{key}.{number}: {dotted.rpartition('.')[2]} {why}"
