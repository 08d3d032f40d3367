"""Numbers gone bad: a NaN or infinite loss, gradient or weight ends training soon, and is named."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from gantry.core.errors import DIVERGED, RunFailed
from gantry.models.module import GAN
from gantry.training.distributed.peers import Peers
from gantry.training.hardware.async_copy import Fetched
from gantry.training.hardware.precision import NETWORKS

VALUES = ""  # whose the losses and scores are
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
        super().__init__(f"diverged {when}, no longer finite: {'; '.join(what)}", kind=DIVERGED)
        self.step, self.what = step, what


class Sight(NamedTuple):
    """A look that is not over.

    Attributes:
        step: of the look.
        seen: how many of each kept value.
        tensors: the values, and all that training goes on from, by whose each is and its name.
        norms: of the tensors.
    """

    step: int
    seen: dict[str, int]
    tensors: dict[tuple[str, str], Tensor]
    norms: Fetched


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
        self._judge()
        self._keep(outputs)
        if trainer.global_step == trainer.max_steps:
            self.check(trainer, pl_module)
        elif trainer.global_step % self.every == 0 and self._look(trainer, pl_module).norms.here:
            self._judge()

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
        self._judge()
        if trainer.global_step != self.looked:
            self._look(trainer, gan)
            self._judge()

    def _look(self, trainer: Trainer, gan: GAN) -> Sight:
        """Have the device see what is not finite: nothing waits for it yet."""
        values = {(VALUES, name): torch.stack(kept) for name, kept in self.values.items()}
        tensors = values | dict(_state(gan, trainer.optimizers))
        norms = torch.stack([vector_norm(tensor).float() for tensor in tensors.values()])
        seen = {name: len(kept) for name, kept in self.values.items()}
        self.sight = Sight(trainer.global_step, seen, tensors, Fetched(norms))
        return self.sight

    def _judge(self) -> None:
        """Read what the last look has found, if that has not been done."""
        if self.sight is None:
            return
        (step, seen, tensors, norms), self.sight = self.sight, None
        bad = [_spoilt(norm, tensor) for norm, tensor in zip(norms.read().tolist(), tensors.values(), strict=True)]
        shares = dict(zip(tensors, self.peers.mean(torch.tensor(bad).float()).tolist(), strict=True))
        if any(shares.values()):
            raise Diverged(self.looked + 1, step, list(_named(shares)))
        self.looked = step
        self.values = {name: since for name, kept in self.values.items() if (since := kept[seen.get(name, 0) :])}

    def _keep(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self.values.setdefault(name, []).append(value)


def _spoilt(norm: float, tensor: Tensor) -> bool:
    """Whether a tensor of this norm is not finite; a norm can overflow where the tensor has not."""
    return math.isnan(norm) or (math.isinf(norm) and not bool(tensor.isfinite().all()))


def _named(shares: dict[tuple[str, str], float]) -> Iterator[str]:
    """What is not finite at any rank, from the share of ranks at which each tensor is not."""
    for owner in dict.fromkeys(owner for owner, _ in shares):
        own = [name for name_owner, name in shares if name_owner == owner]
        lost = [name for name in own if shares[owner, name]]
        if owner == VALUES:
            yield from lost
        elif lost:
            yield f"{owner} ({len(lost)} of {len(own)} tensors, first {lost[0]})"


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
