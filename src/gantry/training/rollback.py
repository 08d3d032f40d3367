"""Restarts training from the last good checkpoint with other noise when it has diverged."""

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

TAG = "gantry.rollbacks"  # tag: what diverged, and the step at which training continued

log = logging.getLogger(__name__)


class Rollback:
    """Applies `guard.policy` on all ranks when training has diverged.

    Under "stop" the run ends. Under "rollback" it continues from its last checkpoint with another noise stream and
    the same real batches; the metrics logged until then are kept in `earlier/rollback_<n>.jsonl`.

    Args:
        settings: the config's `guard`: `policy` and `max_rollbacks` (of the whole run, resumed attempts included).
        gan: counts the noise streams.
        folder: the run's folder.
        tracker: receives a tag for each rollback.
        peers: the run's ranks.
    """

    def __init__(self, settings: DictConfig, gan: GAN, folder: Path, tracker: Tracker, peers: Peers) -> None:
        self.policy, self.most = settings.policy, settings.max_rollbacks
        self.gan, self.folder, self.tracker, self.peers = gan, folder, tracker, peers

    def __call__(self, error: Diverged) -> Start:
        """Return the checkpoint from which to continue.

        Raises:
            Diverged: the policy is "stop", or there is no checkpoint.
            RunFailed: there have been `max_rollbacks` rollbacks.
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
