"""What Gantry and Lightning add to a training step, part by part.

    python benchmarks/parts.py [variant] [size] [rounds] [key=value ...]

Runs `step.py`'s contenders for one configuration with a clock around each part, which itself takes some microseconds
a part. Defaults: dcgan 16 7. Prints Markdown.
"""

import functools
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import step
import torch
from pytorch_lightning.loops import fetchers
from pytorch_lightning.strategies import Strategy
from pytorch_lightning.trainer import call

from gantry.models.ema import AveragedGenerator
from gantry.models.module import GAN

PARTS = {  # what is clocked, less what is clocked inside it
    "drawing noise": ("draw",),
    "backward passes, Lightning's hooks around them": ("manual_backward", "backward"),
    "optimizers' steps, Lightning's hooks around them": ("lightning step", "optimizer step"),
    "averaging the generator": ("average",),
    "callbacks at the end of a step": ("callbacks",),
    "the next batch": ("batch",),
    "the rest of Lightning's loop": ("turn", "training_step", "callbacks", "batch"),
}
SECONDS: Counter[str] = Counter()


class Parts(step.Turns):
    """Says when parts are to be clocked: in turns that count."""

    running = False
    counted = 0  # steps
    latest: "Parts"

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        Parts.latest = self

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        """Count only while a turn of Gantry's that counts is on."""
        Parts.running = False
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        Parts.running = trainer.global_step >= step.WARM_UP + self.steps * self.turns
        Parts.counted += Parts.running and not trainer.should_stop


def clocked(owner: Any, method: str, name: str, only: str | None = None) -> None:
    """Have calls of a method add their time to a part; with `only` those with it as the first or second argument."""
    plain = getattr(owner, method)

    @functools.wraps(plain)
    def timed(*given: Any, **options: Any) -> Any:
        if not Parts.running or (only is not None and only not in given[:2]):
            return plain(*given, **options)
        began = time.perf_counter()
        try:
            return plain(*given, **options)
        finally:
            SECONDS[name] += time.perf_counter() - began

    setattr(owner, method, timed)


def main(arguments: list[str]) -> None:
    """Measure and print."""
    plain = [text for text in arguments if "=" not in text]
    variant, size, rounds = plain + ["dcgan", "16", "7"][len(plain) :]
    clocked(GAN, "training_step", "training_step")
    clocked(GAN, "drawn", "draw")
    clocked(GAN, "manual_backward", "manual_backward")
    clocked(torch.Tensor, "backward", "backward")
    clocked(Strategy, "optimizer_step", "lightning step")
    clocked(torch.optim.Adam, "step", "optimizer step")
    clocked(AveragedGenerator, "update", "average")
    clocked(fetchers._PrefetchDataFetcher, "__next__", "batch")
    clocked(call, "_call_callback_hooks", "callbacks", only="on_train_batch_end")
    step.Turns = Parts  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as folder:
        overrides = [text for text in arguments if "=" in text]
        step.compare(variant, int(size), int(rounds), overrides, Path(folder))
    taken = {name: turns[Parts.latest.turns :] for name, turns in Parts.latest.taken.items()}
    whole = {name: 1e3 * sum(turn.clock for turn in turns) / Parts.counted for name, turns in taken.items()}
    parts = {name: 1e3 * total / Parts.counted for name, total in SECONDS.items()}
    parts["turn"] = whole["gantry"]
    print(f"`python benchmarks/parts.py {' '.join(arguments)}`\n".replace(" `", "`"))
    print(f"{step.machine()}.\n\n| part | ms a step |\n| --- | --- |")
    for name, (own, *inner) in PARTS.items():
        print(f"| {name} | {parts[own] - sum(parts[other] for other in inner):.2f} |")
    print(f"| Gantry's whole step | {whole['gantry']:.2f} |\n| the bare loop's | {whole['bare']:.2f} |")


if __name__ == "__main__":
    main(sys.argv[1:])
