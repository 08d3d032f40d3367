"""Moves the champion alias to the best version of a registered model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gantry.core.text import typed_command
from gantry.generation.registry import champion
from gantry.generation.registry.champion import Measured
from gantry.generation.registry.versions import CHAMPION, RUN, champion_of, versions

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

TOGETHER = 60_000  # ms; versions created within this time may come from concurrent registrations


def settle(client: MlflowClient, name: str, version: str, measured: Measured | None) -> tuple[bool, str]:
    """Move the alias to a version if it is better than its champion.

    Registries have no compare-and-set, and of two concurrent registrations the worse one may write last. So each
    registration reads the latest versions after writing and sets the alias to the best of them: whichever writes last,
    the best stays. Only a process that is killed between writing and reading leaves it wrong.

    Returns:
        True where the version is the champion now, and the reason.
    """
    holder = champion_of(client, name)
    if holder is not None and str(holder.version) == version:
        return True, "it is the champion"
    present = champion.from_tags(holder.tags) if holder else None
    verdict = champion.verdict(measured, present, str(holder.version) if holder else None)
    if not verdict.wins or measured is None:
        return False, verdict.why + _remedy(name, measured, holder)
    best, placed = (version, measured), None
    while placed != best[0]:
        placed = best[0]
        client.set_registered_model_alias(name, CHAMPION, placed)
        best = _best_meanwhile(client, name, best)
    if placed != version:
        return False, f"version {placed} was registered at the same time and is the champion, with {best[1].text}"
    return True, f"the champion: {verdict.why}"


def _best_meanwhile(client: MlflowClient, name: str, best: tuple[str, Measured]) -> tuple[str, Measured]:
    """Return the best of `best` and of the latest versions that were measured in the same way.

    Older ones are left out: a user may have chosen another version over one with a better value.
    """
    held = versions(client, name)
    now = max(int(one.creation_timestamp) for one in held)
    for one in held:
        other = champion.from_tags(one.tags)
        if other is None or now - int(one.creation_timestamp) > TOGETHER:
            continue
        if not other.apart(best[1]) and other.beats(best[1]):
            best = str(one.version), other
    return best


def _remedy(name: str, mine: Measured | None, holder: ModelVersion | None) -> str:
    """Return the commands that make two versions comparable; empty if they are."""
    if mine is None or holder is None:
        return ""
    other = champion.from_tags(holder.tags)
    if other is not None and not mine.apart(other):
        return ""
    run = holder.tags.get(RUN) or "<its run>"
    return (
        f". To compare them, measure both alike and register both again by that, version {holder.version} first: "
        f"{typed_command('evaluate')} run=[{run},...] and {typed_command('sample')} run={run} register={name} "
        "metric=papers/fid"
    )
