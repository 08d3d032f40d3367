"""Ends training soon after a loss, gradient or weight becomes NaN or infinite, and names it."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor
from torch.linalg import vector_norm
from torch.optim import Optimizer

from gantry.core.errors import DIVERGED, RunFailed
from gantry.models.module import GAN
from gantry.models.step import PLAYERS
from gantry.training.distributed.peers import Peers
from gantry.training.hardware.async_copy import Fetched

VALUES = ""  # owner of the losses and scores
# Torch's names of optimizer states that accumulate gradients, so that one that is not finite stays there for good.
ACCUMULATORS = ("exp_avg", "exp_avg_sq", "exp_inf", "momentum_buffer", "square_avg", "sum")


class Diverged(RunFailed):
    """Training has numbers that are not finite, from which it cannot recover.

    Attributes:
        step: the step at which they were found.
        what: a few words for each of them.
    """

    def __init__(self, since: int, step: int, what: list[str]) -> None:
        when = f"between steps {since} and {step}" if since < step else f"at step {step}"
        super().__init__(f"diverged {when}, no longer finite: {'; '.join(what)}", kind=DIVERGED)
        self.step, self.what = step, what


class PendingCheck(NamedTuple):
    """A check for non-finite values whose result has not been read from the device yet.

    Attributes:
        step: the step of the check.
        seen: for each kept value, the number of entries checked.
        tensors: the kept values and the state of training, by owner and name.
        norms: the tensors' norms.
    """

    step: int
    seen: dict[str, int]
    tensors: dict[tuple[str, str], Tensor]
    norms: Fetched


class Guard(Callback):
    """Checks every `every` steps, and wherever `check` is called, that all numbers are finite.

    Between checks nothing waits for the device and nothing is computed: each step's losses and scores stay on the
    device. The result of a check is read from a GPU during the next step, so that the GPU never waits. Gradients need
    no check of their own: one that is not finite stays in the moments of Adam or RMSprop and in momentum, even where
    clipping hides it from the weights. Only for an optimizer without such state (plain SGD) is the norm of each
    gradient kept too. Under 16-mixed a gradient may overflow: that step is skipped, and changes neither the weights
    nor the optimizer.

    A network's buffers count as its weights; a buffer with intended infinities, such as an attention mask, needs
    `persistent=False`.

    Args:
        every: steps between two checks.
        peers: the run's ranks, which check together and reach the same result; None: this process alone.

    Raises:
        Diverged: by all ranks at the same step.
    """

    def __init__(self, every: int, peers: Peers | None = None) -> None:
        self.every, self.peers = every, peers or Peers()
        self.looked = -1  # the step of the last check
        self.values: dict[str, list[Tensor]] = {}  # losses and scores of the steps since, on the device
        self.pending: PendingCheck | None = None
        self.wanted: dict[str, bool] = {}  # whether the norm of a player's gradient was asked for in this step

    def on_train_start(self, trainer: Trainer, pl_module: GAN) -> None:  # type: ignore[override]
        """Move the values of a checkpoint to the device, and ask for norms of gradients."""
        pl_module.ask_for_norms(self.wants_norm)
        self.values = {name: [value.to(pl_module.device) for value in kept] for name, kept in self.values.items()}

    def wants_norm(self, gan: GAN, player: str, step: int) -> bool:
        """Return True where a bad gradient could pass unseen: the player's optimizer does not accumulate gradients."""
        self.wanted[player] = not accumulates(gan.trainer.optimizers[PLAYERS.index(player)])
        return self.wanted[player]

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: GAN, outputs: dict[str, Tensor], batch: Any, batch_idx: int
    ) -> None:
        """Keep this step's values, and check when due."""
        self._finish_check()
        if getattr(trainer.precision_plugin, "scaler", None) is None:
            norms = pl_module.gradient_norms.items()
            self._keep({f"{player}'s gradient": norm for player, norm in norms if self.wanted.get(player)})
        self._keep(outputs)
        if trainer.global_step == trainer.max_steps:
            self.check(trainer, pl_module)
        elif trainer.global_step % self.every == 0 and self._begin_check(trainer, pl_module).norms.here:
            self._finish_check()

    def state_dict(self) -> dict[str, Any]:
        """Return the step of the last check, and the values since."""
        return {"looked": self.looked, "values": {name: torch.stack(kept) for name, kept in self.values.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        self.looked, self.pending = state_dict["looked"], None
        self.values = {name: list(kept) for name, kept in state_dict["values"].items()}

    def check(self, trainer: Trainer, gan: GAN) -> None:
        """Check now the whole state of training; does nothing where this step has been checked already.

        All ranks must call it at the same steps.

        Raises:
            Diverged: names the values, networks and optimizers that are not finite.
        """
        self._finish_check()
        if trainer.global_step != self.looked:
            self._begin_check(trainer, gan)
            self._finish_check()

    def _begin_check(self, trainer: Trainer, gan: GAN) -> PendingCheck:
        """Start a check on the device without waiting for it."""
        values = {(VALUES, name): torch.stack(kept) for name, kept in self.values.items()}
        tensors = values | dict(_state(gan, trainer.optimizers))
        norms = torch.stack([vector_norm(tensor).float() for tensor in tensors.values()])
        seen = {name: len(kept) for name, kept in self.values.items()}
        self.pending = PendingCheck(trainer.global_step, seen, tensors, Fetched(norms))
        return self.pending

    def _finish_check(self) -> None:
        """Read the result of the pending check, if there is one."""
        if self.pending is None:
            return
        (step, seen, tensors, norms), self.pending = self.pending, None
        bad = [_nonfinite(norm, tensor) for norm, tensor in zip(norms.read().tolist(), tensors.values(), strict=True)]
        shares = dict(zip(tensors, self.peers.mean(torch.tensor(bad).float()).tolist(), strict=True))
        if any(shares.values()):
            raise Diverged(self.looked + 1, step, list(_named(shares)))
        self.looked = step
        self.values = {name: since for name, kept in self.values.items() if (since := kept[seen.get(name, 0) :])}

    def _keep(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self.values.setdefault(name, []).append(value)


def _nonfinite(norm: float, tensor: Tensor) -> bool:
    """Return True where a tensor of this norm is not finite; a norm can overflow although the tensor is finite."""
    return math.isnan(norm) or (math.isinf(norm) and not bool(tensor.isfinite().all()))


def _named(shares: dict[tuple[str, str], float]) -> Iterator[str]:
    """Describe the tensors that are not finite at any rank, from the share of ranks at which each is not."""
    for owner in dict.fromkeys(owner for owner, _ in shares):
        own = [name for name_owner, name in shares if name_owner == owner]
        lost = [name for name in own if shares[owner, name]]
        if owner == VALUES:
            yield from lost
        elif lost:
            yield f"{owner} ({len(lost)} of {len(own)} tensors, first {lost[0]})"


def accumulates(optimizer: Optimizer) -> bool:
    """Return True where the optimizer's state accumulates gradients; False before its first step."""
    return any(name in ACCUMULATORS for name in next(iter(optimizer.state.values()), ()))


def _state(gan: GAN, optimizers: list[Optimizer]) -> Iterator[tuple[tuple[str, str], Tensor]]:
    """Yield all floating-point tensors of the state of training: ((owner, name), tensor)."""
    for name, value in gan.state_dict().items():
        if value.is_floating_point():
            owner, _, own_name = name.partition(".")
            yield (f"{owner}'s weights", own_name), value
    names: dict[Tensor, str] = {weight: name.partition(".")[2] for name, weight in gan.named_parameters()}
    for network, optimizer in zip(PLAYERS, optimizers, strict=True):
        for weight, state in optimizer.state.items():
            for kind, value in state.items():
                if isinstance(value, Tensor) and value.is_floating_point() and kind != "step":
                    yield (f"{network}'s optimizer", f"{kind} of {names[weight]}"), value
