"""The known limits of a generator, as its model card tells them: what it is, and how it was measured."""

from __future__ import annotations

from gantry.evaluation.metrics.class_shares import COVERED
from gantry.evaluation.protocol import STANDARD_COUNT
from gantry.generation.export.facts import Facts, at, mapping
from gantry.generation.export.markdown import code, count, is_number, listed


def limits(known: Facts) -> list[str]:
    """A line of Markdown for each."""
    protocols = [mapping(known.summary.get("protocol"))] if known.values else []
    protocols += [mapping(record.get("settings")) for record in known.evaluations]
    counts = [made for one in protocols if is_number(made := one.get("n_generated"))]
    most = max(counts, default=0)
    lines = ["- It makes images of one size, and cannot be asked for a class or a content."]
    if counts and most < STANDARD_COUNT:
        lines.append(
            f"- It was measured on {most:,} images at most. A distance of few images comes out too large, and rare "
            "failures and rare kinds of images are not seen in them."
        )
    if any(one.get("extractor") == "classifier" for one in protocols):
        accuracies = [value for one in protocols if is_number(value := one.get("classifier_accuracy"))]
        right = f", which is right on {accuracies[-1]:.1%} of real images," if accuracies else ""
        lines.append(
            f"- What was measured with a small classifier{right} says how alike images are to it, not to the eye."
        )
    if any(one.get("split") in ("train", "all") for one in protocols):
        lines.append("- It was compared with images it was trained on: copies of them would look good in the values.")
    lines += _classes(known)
    lines.append(_memorisation(known))
    lines.append("- It is one run of one seed; another seed gives another generator and other values.")
    lines.append("- All values are of latents as they are drawn: truncated ones give likelier and less varied images.")
    return lines


def _classes(known: Facts) -> list[str]:
    """What is known of the classes it draws: the largest evaluation's word, else the run's at its end."""
    found: object = next((one["classes"] for one in reversed(known.evaluations) if one.get("classes")), None)
    if found is None and known.values and known.step in (None, known.summary.get("steps")):
        found = known.summary.get("classes")
    shares = {
        name: pair
        for name, pair in mapping(found).items()
        if isinstance(pair, list | tuple) and len(pair) == 2 and all(map(is_number, pair)) and pair[0] > 0
    }
    if not shares:
        return ["- How evenly it draws the kinds of images in its data is not known."]
    rare = {name: pair for name, pair in shares.items() if pair[1] < COVERED * pair[0]}
    if rare:
        said = listed(f"{name} {made:.1%} against {real:.1%}" for name, (real, made) in rare.items())
        return [f"- Modes are missing: classes drawn less than a tenth as often as they occur: {said}."]
    least = min(shares, key=lambda name: shares[name][1] / shares[name][0])
    real, made = shares[least]
    return [
        f"- No class is missing of {len(shares)}; drawn least for its share is {code(least)}, {made:.1%} "
        f"against {real:.1%}."
    ]


def _memorisation(known: Facts) -> str:
    for record in reversed(known.evaluations):
        found = mapping(record.get("memorisation"))
        rate, expected, std = (found.get(name) for name in ("copy_rate", "copy_rate_expected", "copy_rate_std"))
        if is_number(rate) and is_number(expected) and is_number(std):
            beside = "held-out real images" if found.get("held_out_images") else "training images left out of the rest"
            return (
                f"- Memorisation, measured on {count(at(record, 'settings.n_generated'))} images: {rate:.2%} of them "
                f"are as near to a training image as the nearest {expected:.1%} of {beside} (± {std:.2%} by chance). "
                "Copies that are rarer, or altered, would not show."
            )
    return "- Whether it repeats training images was not measured (`python evaluate.py` does)."
