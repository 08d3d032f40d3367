"""The arguments of Lightning's Trainer that a config cannot set, each with the reason and what to set instead.

They would do nothing in a run, which has no validation and no epochs, or they would change the meaning of a step.
"""

_BUDGET = "steps is the budget of a run"
_UNEQUAL = f"would give runs unequal budgets; {_BUDGET}"
_VALIDATION = "a run has no validation; metrics.every says how often it measures"
_LESS_DATA = "max_images trains on a part of the data"
_CLIPPING = "works with automatic optimization only; model.max_grad_norm clips gradients"
_OTHER_LOOPS = "a run only trains; evaluate.py measures, sample.py draws"

TRAINER = {
    "max_steps": _BUDGET,
    "min_steps": _BUDGET,
    "max_epochs": f"a run has one epoch; {_BUDGET}",
    "min_epochs": f"a run has one epoch; {_BUDGET}",
    "max_time": _UNEQUAL,
    "fast_dev_run": "experiment=smoke trains a few steps of everything",
    "overfit_batches": _LESS_DATA,
    "limit_train_batches": f"{_BUDGET}; {_LESS_DATA}",
    "limit_val_batches": f"{_VALIDATION}, metrics.n_generated with how many images",
    "limit_test_batches": _OTHER_LOOPS,
    "limit_predict_batches": _OTHER_LOOPS,
    "val_check_interval": _VALIDATION,
    "check_val_every_n_epoch": _VALIDATION,
    "num_sanity_val_steps": f"{_VALIDATION}, and it does so before the first step",
    "log_every_n_steps": "log_every says how often a run logs, also what callbacks log",
    "enable_checkpointing": "checkpoint.every and checkpoint.keep say what is kept",
    "enable_progress_bar": "a run shows a bar of generator steps on a terminal, and a line now and then elsewhere",
    "enable_model_summary": "+trainer.callbacks=[{_target_: pytorch_lightning.callbacks.ModelSummary}] prints one",
    "accumulate_grad_batches": "works with automatic optimization only; accumulate adds gradients up",
    "gradient_clip_val": _CLIPPING,
    "gradient_clip_algorithm": _CLIPPING,
    "inference_mode": _OTHER_LOOPS,
    "use_distributed_sampler": "the ranks share each batch, whatever their number",
    "reload_dataloaders_every_n_epochs": "a run has one epoch, and draws each batch anew",
    "barebones": "would switch off callbacks, loggers and checkpoints; tracking=none leaves MLflow out",
    "plugins": "a run has its own; trainer.precision and trainer.strategy choose among them",
    "default_root_dir": "hydra.run.dir is the folder of a run",
    "enable_autolog_hparams": "the parameters of a run are logged once; tracking=none leaves MLflow out",
    "model_registry": "python sample.py run=... register=<name> registers a trained generator",
}
PROFILERS = ("simple", "advanced", "pytorch")  # that a run's folder gets a file of
