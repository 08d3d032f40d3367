"""Numbers gone bad: a NaN or infinite loss, gradient or weight ends training soon, and is named."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from gantry.distributed.peers import Peers
from gantry.errors import RunFailed
from gantry.fetched import Fetched
from gantry.gan import GAN
from gantry.precision import NETWORKS

# What optimizers keep of past gradients, under torch's names, from which one that was not finite never leaves again.
MEMORIES = ("exp_avg", "exp_avg_sq", "exp_inf", "momentum_buffer", "square_avg", "sum")


class Diverged(RunFailed):
    """Training has numbers that are not finite, of which none recovers.

    Attributes:
        step: at which they were found.
        what: they are, each in a few words.
    """

    def __init__(self, since: int, step: int, what: list[str]) -> None:
        when = f"between steps {since} and {step}" if since < step else f"at step {step}"
        super().__init__(f"diverged {when}, no longer finite: {'; '.join(what)}")
        self.step, self.what = step, what


class Sight(NamedTuple):
    """A look that is not over: at which step, whether anything was not finite, how many kept values have been seen."""

    step: int
    bad: Fetched
    seen: dict[str, int]


class Guard(Callback):
    """Look every `every` steps, and wherever `check` is called, whether all numbers are finite.

    In between nothing waits for the device, and nothing is computed: each step's losses and scores are kept where they
    are. What a look has found is read from a GPU during the step after, so that the GPU never waits. A gradient leaves
    its mark in the optimizer: one that is not finite stays in the moments of Adam or RMSprop and in momentum, whatever
    clipping makes of the weights. Only where an optimizer keeps no such memory (plain SGD) is the norm of each gradient
    kept too. Under 16-mixed a gradient may overflow: that step is left out, and neither the weights nor the optimizer
    see it.

    A network's buffers count as its weights; what is infinite on purpose, as the mask of an attention, belongs in
    one with `persistent=False`.

    Args:
        every: steps between two looks.
        peers: the run's ranks, which look together and come to the same answer; None: alone.

    Raises:
        Diverged: by all ranks at the same step.
    """

    def __init__(self, every: int, peers: Peers | None = None) -> None:
        self.every, self.peers = every, peers or Peers()
        self.looked = -1  # the step of the last look
        self.values: dict[str, list[Tensor]] = {}  # of the steps since, on the device
        self.sight: Sight | None = None  # of a look whose answer has not been read yet

    def on_train_start(self, trainer: Trainer, pl_module: GAN) -> None:  # type: ignore[override]
        """Take what a checkpoint held to the device."""
        self.values = {name: [value.to(pl_module.device) for value in kept] for name, kept in self.values.items()}

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: GAN, optimizer: Optimizer) -> None:  # type: ignore[override]
        """Keep the gradient's norm where the optimizer will not remember it; it has not been clipped yet."""
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        if not scaled and not remembers(optimizer):
            network = NETWORKS[trainer.optimizers.index(optimizer)]
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            gradients = [weight.grad for weight in weights if weight.grad is not None]
            self._keep({f"{network}'s gradient": get_total_norm(gradients)})

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: GAN, outputs: dict[str, Tensor], batch: Any, batch_idx: int
    ) -> None:
        """Keep this step's values, and look when due."""
        self._judge(trainer, pl_module)
        self._keep(outputs)
        if trainer.global_step == trainer.max_steps:
            self.check(trainer, pl_module)
        elif trainer.global_step % self.every == 0 and self._look(trainer, pl_module).bad.here:
            self._judge(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """The step of the last look, and the values since."""
        return {"looked": self.looked, "values": {name: torch.stack(kept) for name, kept in self.values.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up `state_dict`."""
        self.looked, self.sight = state_dict["looked"], None
        self.values = {name: list(kept) for name, kept in state_dict["values"].items()}

    def check(self, trainer: Trainer, gan: GAN) -> None:
        """Look now, at all that training goes on from; a second time at the same step is for nothing.

        All ranks must call it at the same steps.

        Raises:
            Diverged: naming the values, networks and optimizers that are not finite.
        """
        self._judge(trainer, gan)
        if trainer.global_step != self.looked:
            self._look(trainer, gan)
            self._judge(trainer, gan)

    def _look(self, trainer: Trainer, gan: GAN) -> Sight:
        """Have the device see whether all is finite, in one number: nothing waits for it yet."""
        tensors = [tensor for _, tensor in _state(gan, trainer.optimizers)]
        numbers = torch.stack([value for kept in self.values.values() for value in kept] + [get_total_norm(tensors)])
        seen = {name: len(kept) for name, kept in self.values.items()}
        self.sight = Sight(trainer.global_step, Fetched((~numbers.isfinite()).any().float()), seen)
        return self.sight

    def _judge(self, trainer: Trainer, gan: GAN) -> None:
        """Read what the last look has found, if that has not been done."""
        if self.sight is None:
            return
        sight, self.sight = self.sight, None
        # A norm can overflow where no tensor has: the second look knows better.
        if self.peers.mean(sight.bad.read()) and (what := self._named(trainer, gan)):
            raise Diverged(self.looked + 1, sight.step, what)
        self.looked = sight.step
        self.values = {name: since for name, kept in self.values.items() if (since := kept[sight.seen.get(name, 0) :])}

    def _keep(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self.values.setdefault(name, []).append(value)

    def _named(self, trainer: Trainer, gan: GAN) -> list[str]:
        """What is not finite at any rank."""
        tensors = dict(_state(gan, trainer.optimizers))
        everything = [torch.stack(kept) for kept in self.values.values()] + list(tensors.values())
        bad = self.peers.mean(torch.stack([(~values.isfinite()).any() for values in everything]).float()).tolist()
        what = [name for name, share in zip(self.values, bad, strict=False) if share]
        shares = dict(zip(tensors, bad[len(self.values) :], strict=True))
        for owner in dict.fromkeys(owner for owner, _ in tensors):
            own = [name for name_owner, name in tensors if name_owner == owner]
            lost = [name for name in own if shares[owner, name]]
            if lost:
                what.append(f"{owner} ({len(lost)} of {len(own)} tensors, first {lost[0]})")
        return what


def remembers(optimizer: Optimizer) -> bool:
    """Whether a gradient that is not finite stays in the optimizer's state; before the first step, not yet."""
    return any(name in MEMORIES for name in next(iter(optimizer.state.values()), ()))


def _state(gan: GAN, optimizers: list[Optimizer]) -> Iterator[tuple[tuple[str, str], Tensor]]:
    """All floating tensors that training goes on from: whose each is, its name, and itself."""
    for name, value in gan.state_dict().items():
        if value.is_floating_point():
            owner, _, own_name = name.partition(".")
            yield (f"{owner}'s weights", own_name), value
    names: dict[Tensor, str] = {weight: name.partition(".")[2] for name, weight in gan.named_parameters()}
    for network, optimizer in zip(NETWORKS, optimizers, strict=True):
        for weight, state in optimizer.state.items():
            for kind, value in state.items():
                if isinstance(value, Tensor) and value.is_floating_point() and kind != "step":
                    yield (f"{network}'s optimizer", f"{kind} of {names[weight]}"), value
