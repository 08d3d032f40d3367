"""Contenders that take turns: trainings through Lightning, each in a thread of its own, and loops by hand."""

import queue
import statistics
import threading
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from gpu_runs import DEVICE, GUARD, ON_GPU, Run
from omegaconf import DictConfig
from pytorch_lightning import Callback
from step import Loop, now, since
from torch import Tensor, nn

from gantry.data.images import ImageSet

WARM_UP = 12  # steps: the first is eager, the second captures, cuDNN chooses its algorithms
ROUNDS = 3


class Contender(Protocol):
    """Trains some steps when it is its turn."""

    def turn(self, steps: int) -> float:
        """Train, and return the seconds."""

    def end(self) -> None:
        """Train no more, and let go of the memory."""


class Baton(Callback):
    """Lets a training go on for so many steps at a time."""

    def __init__(self) -> None:
        self.go: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self.left = 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        """Say at the end of a turn that it is over, and wait for the next; 0 steps: the end."""
        if self.left == 0:
            if batch_idx:
                self.done.put(None)
            self.left = self.go.get()
            trainer.should_stop = self.left == 0
        self.left -= 1


class Training:
    """A training through Lightning that takes turns, and begins with the first: no other thread may disturb a capture.

    Args:
        run: not begun.
        deterministic: whether cuDNN's algorithms are deterministic in its turns, as in `train.py`.
    """

    def __init__(self, run: Run, deterministic: bool = True) -> None:
        self.run, self.deterministic, self.baton = run, deterministic, Baton()
        run.trainer.callbacks.insert(0, self.baton)
        self.thread = threading.Thread(target=self._train, daemon=True)

    def _train(self) -> None:
        try:
            self.run.train()
            self.baton.done.put(None)
        except BaseException as error:  # raised where the turn is waited for
            self.baton.done.put(error)

    def turn(self, steps: int) -> float:
        """Train.

        Raises:
            Exception: that of the training.
        """
        with cudnn_deterministic(self.deterministic):
            if self.thread.ident is None:
                self.thread.start()
            began = now()
            self.baton.go.put(steps)
            self._wait()
            return since(began).clock

    def end(self) -> None:
        """End the training."""
        if self.thread.is_alive():
            self.baton.go.put(0)
            self._wait()
            self.thread.join()

    def _wait(self) -> None:
        if (error := self.baton.done.get()) is not None:
            raise error


@contextmanager
def cudnn_deterministic(on: bool) -> Any:
    """Set the flag within this context; the contenders of one process differ in it."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = on
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before


class ByHand(Loop):
    """The bare loop of `step.py` with its images on the device, and if so as one CUDA graph.

    Args:
        cfg, data: of the run.
        generator, discriminator: copied.
        graph: whether it is captured.
    """

    def __init__(
        self, cfg: DictConfig, data: ImageSet, generator: nn.Module, discriminator: nn.Module, graph: bool
    ) -> None:
        images: Tensor = torch.from_numpy(data.images[:].copy()).to(DEVICE)
        super().__init__(cfg, images, generator, discriminator, fast=True)
        self.replay: Callable[[], None] = self.step
        if graph and ON_GPU:
            with cudnn_deterministic(False):
                self.replay = self.captured()

    def captured(self) -> Callable[[], None]:
        """Return what replays a step as a CUDA graph."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["capturable"] = True
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(5):
                self.step()
        torch.cuda.current_stream().wait_stream(stream)
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            self.step()
        return captured.replay

    def turn(self, steps: int, log: bool = False) -> float:  # type: ignore[override]
        """Train."""
        with cudnn_deterministic(False):
            began = now()
            for _ in range(steps):
                self.replay()
            return since(began).clock

    def end(self) -> None:
        """Let go of the graph."""
        self.replay = self.step


def in_turns(
    contenders: Mapping[str, Contender], seconds: float, rounds: int = ROUNDS, end: bool = True
) -> dict[str, list[float]]:
    """Return the seconds of a step, for each contender one for each round; they take turns in an order that rotates.

    Args:
        contenders: by name.
        seconds: for all rounds of all contenders, beside what they take to warm up.
        rounds: how often each has a turn that counts.
        end: whether to end them afterwards.
    """
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    steps = {}
    try:
        for name, contender in contenders.items():
            contender.turn(WARM_UP)
            few = 5 if ON_GPU else 1
            wanted = seconds / rounds / len(contenders) / (contender.turn(few) / few)
            # A turn of many steps is a multiple of the guard's and the log's, whose work is in it by its share.
            steps[name] = max(1, round(wanted)) if wanted < GUARD else GUARD * round(wanted / GUARD)
        names = list(contenders)
        for number in range(rounds):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                taken[name].append(contenders[name].turn(steps[name]) / steps[name])
    finally:
        if end:
            for contender in contenders.values():
                contender.end()
    return taken


def ratio(taken: Mapping[str, list[float]], one: str, other: str) -> float:
    """Return the median over the rounds of the quotient of two contenders' times."""
    return statistics.median(a / b for a, b in zip(taken[one], taken[other], strict=True))


def middle(taken: Mapping[str, list[float]], name: str) -> float:
    """Return the median time of a contender's step, in ms."""
    return 1e3 * statistics.median(taken[name])
