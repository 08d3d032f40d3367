"""Going back to the last good checkpoint with other noise, where training has diverged."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from omegaconf import DictConfig

from gantry.core.errors import RunFailed
from gantry.models.module import GAN
from gantry.runs import checkpoint_files
from gantry.runs.folder import EARLIER, METRICS_FILE, TAGS_FILE, read_values, rewind
from gantry.runs.tracking.tracker import Tracker, rolled_back
from gantry.training.callbacks.divergence import Diverged
from gantry.training.distributed.peers import Peers
from gantry.training.resume import Start

TAG = "gantry.rollbacks"  # what diverged, and where training went on from

log = logging.getLogger(__name__)


class Rollback:
    """Applies `guard.policy` where training has diverged, at every rank together.

    Under "stop" the run ends. Under "rollback" it goes on from its last checkpoint with another stream of noise,
    the real batches staying the same; the metrics as logged by then are kept in `earlier/rollback_<n>.jsonl`.

    Args:
        settings: the config's `guard`: `policy` and `max_rollbacks` (of the whole run, resumed ones included).
        gan: counts the streams.
        folder: the run's.
        tracker: is told of each.
        peers: the other ranks.
    """

    def __init__(self, settings: DictConfig, gan: GAN, folder: Path, tracker: Tracker, peers: Peers) -> None:
        self.policy, self.most = settings.policy, settings.max_rollbacks
        self.gan, self.folder, self.tracker, self.peers = gan, folder, tracker, peers

    def __call__(self, error: Diverged) -> Start:
        """Where to go on from.

        Raises:
            Diverged: nowhere: by policy, or for want of a checkpoint.
            RunFailed: after too many rollbacks.
        """
        if self.policy == "stop":
            raise error
        if self.gan.noise_stream >= self.most:
            said = f"{error}; that was after guard.max_rollbacks={self.most} rollbacks"
            raise RunFailed(said, kind=error.kind) from error
        start = self.peers.tell(self._go_back(error) if self.peers.first else None)
        if start is None:
            raise error
        self.gan.noise_stream += 1
        return start

    def _go_back(self, error: Diverged) -> Start | None:
        chosen = checkpoint_files.newest(self.folder, aside=True)
        if chosen is None:
            return None
        number = self.gan.noise_stream + 1
        record, kept = self.folder / METRICS_FILE, self.folder / EARLIER / f"rollback_{number}.jsonl"
        if record.exists():
            kept.parent.mkdir(exist_ok=True)
            shutil.copyfile(record, kept)
            rewind(self.folder, chosen.step)
        what = f"{error}; back to step {chosen.step} with noise stream {number}"
        log.warning(what)
        before = read_values(self.folder / TAGS_FILE).get(TAG)
        self.tracker.set_tags({TAG: f"{before} | {what}" if before else what} | rolled_back(chosen.step))
        return Start(chosen.path, chosen.step, goes_on=True)
