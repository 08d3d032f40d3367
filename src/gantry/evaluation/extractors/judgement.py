"""Tells whether a classifier's accuracy on held-out images is clearly above chance, or cannot be told."""

from collections.abc import Sequence

import numpy as np

LEVEL = 0.01  # chance of calling a classifier better that is not
SEEN = 0.9  # least chance of telling one that is right half as often as possible above chance
SURE = 0.95  # confidence of the interval of an accuracy
FEW = 10  # images to learn a class from, below which that is said
NAMED = 5  # classes named


def caveats(what: str, known: np.ndarray, held_out: np.ndarray, accuracy: float, names: Sequence[str]) -> list[str]:
    """Return what speaks against a classifier as a judge, a sentence each; none speaks for it.

    Args:
        what: the classifier, as the sentences' subject.
        known: labels of the images that it learned from, int64 (n,).
        held_out: labels of the others, int64 (m,), m at least 1.
        accuracy: the share of those that it recognises, 0 to 1.
        names: the classes' names; a class without one is named by its number.
    """
    said = []
    chance = max(largest_share(held_out), largest_share(np.concatenate([known, held_out])))
    if note := beside_chance(round(accuracy * len(held_out)), len(held_out), chance):
        said.append(f"{what} {note}")
    seen = np.bincount(known, minlength=int(held_out.max()) + 1)
    if missing := np.unique(held_out[seen[held_out] == 0]).tolist():
        said.append(f"{what} has seen no image of {_listed(missing, names)} to learn from, and never finds one")
    if rare := np.flatnonzero((seen > 0) & (seen < FEW)).tolist():
        said.append(f"{what} has seen fewer than {FEW} images of {_listed(rare, names)}: it may not know them")
    return said


def _listed(labels: Sequence[int], names: Sequence[str]) -> str:
    shown = [names[label] if label < len(names) else str(label) for label in labels[:NAMED]]
    return ", ".join(shown) + (f" and {len(labels) - NAMED} more" if len(labels) > NAMED else "")


def beside_chance(correct: int, count: int, chance: float) -> str | None:
    """Compare `correct` of `count` verdicts with always naming the commonest class, by an exact binomial test.

    Args:
        correct: number of verdicts that are right.
        count: number of all verdicts, at least 1.
        chance: the commonest class's share, 0 to 1.

    Returns:
        What to say where they are not clearly more; None where they are.
    """
    if at_least(correct, count, chance) < LEVEL:
        return None
    low, high = interval(correct, count)
    found = (
        f"recognises {correct} of {count} held-out images ({correct / count:.2%}; 95 % interval {low:.0%} to "
        f"{high:.0%}); always naming the commonest class gives {chance:.2%}"
    )
    if enough(count, chance):
        return f"{found}: it judges at chance level"
    return f"{found}: too few to tell it from chance"


def at_least(correct: int, count: int, chance: float) -> float:
    """Return the probability of `correct` or more of `count`, each with probability `chance`."""
    from scipy.special import bdtrc

    return 1.0 if correct < 1 else float(bdtrc(correct - 1, count, chance))


def enough(count: int, chance: float) -> bool:
    """Return True if `count` images tell a classifier halfway between `chance` and 1 from chance, nearly always."""
    correct = next((k for k in range(count + 1) if at_least(k, count, chance) < LEVEL), None)
    return correct is not None and at_least(correct, count, (1 + chance) / 2) >= SEEN


def interval(correct: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval of an accuracy, 0 to 1 (Clopper and Pearson 1934)."""
    from scipy.special import betaincinv

    tail = (1 - SURE) / 2
    low = float(betaincinv(correct, count - correct + 1, tail)) if correct else 0.0
    high = float(betaincinv(correct + 1, count - correct, 1 - tail)) if correct < count else 1.0
    return low, high


def largest_share(labels: np.ndarray) -> float:
    """Return the commonest label's share of `labels`, int64 (n,), n at least 1: above 0, at most 1."""
    return float(np.bincount(labels).max() / len(labels))
