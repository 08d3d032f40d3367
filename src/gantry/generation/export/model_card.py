"""The model card of an exported generator (Mitchell et al. 2019, Model Cards for Model Reporting).

Markdown with a YAML head, as Hugging Face has it. What files say of names and choices stands in code spans, where
nothing in it is markup; what they do not say is said to be unknown.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gantry.core.text import redact
from gantry.evaluation.protocol import STANDARD_COUNT
from gantry.generation.export.facts import Facts, at, gather, mapping
from gantry.generation.export.limits import limits
from gantry.generation.export.markdown import UNKNOWN, code, count, listed, number

FILE, PICTURE = "README.md", "samples.png"
MARK = "<!-- Written by Gantry; an export to this folder writes it anew. -->"
NOT_STATED = (
    "Not stated. Whoever passes this generator on must state it, and see to it that the licence of the data it was "
    "trained on allows it."
)
STANDARD = "Names without an ending are those of the papers, measured as they do."
NOT_STANDARD = (
    "These are not the papers' FID, KID and Inception score, which are of 50,000 images, Inception's features and the "
    "training set: compare them only with what was measured in the very same way."
)
SLUG = re.compile(r"[a-z0-9][a-z0-9._-]*")

LOADING = {
    "generator.safetensors": """\
With torch alone; this runs the Python source in `network`, so read it, or trust who sent it. The weights and
`generator.json` by themselves run no code.

```python
import json, sys, torch
folder = "."  # this one
sys.path.insert(0, folder)
from generator import load, save
network = load()
z = torch.randn(64, {z_dim}, generator=torch.Generator().manual_seed(0))
with torch.inference_mode():
    images = network(z)  # (64, {channels}, {height}, {width}), -1 black to 1 white
save(images, "drawn.png")
```

With Gantry: `python sample.py run=<this folder>`.
""",
    "generator.pt2": """\
As a `torch.export` program, without the network's source; load it only from people you trust:

```python
import torch
network = torch.export.load("generator.pt2").module()
images = network(torch.randn(64, {z_dim}))
```
""",
    "generator.onnx": """\
As ONNX, in any runtime of it:

```python
import numpy, onnxruntime
session = onnxruntime.InferenceSession("generator.onnx")
z = numpy.random.default_rng(0).standard_normal((64, {z_dim}), dtype="float32")
(images,) = session.run(["images"], {{"z": z}})
```
""",
}


@dataclass(frozen=True)
class Written:
    """A file of an export.

    Attributes:
        folder: of the export.
        name: in it, with / between the parts.
        difference: the largest between its images and the network's; None where it makes none.
    """

    folder: Path
    name: str
    difference: float | None = None

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.folder / self.name

    @property
    def sha256(self) -> str:
        """Of its content."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def model_card(
    source: Path,
    run: Path | None = None,
    *,
    licence: str | None = None,
    parameters: int | None = None,
    files: Sequence[Written] = (),
    needs: Sequence[str] = (),
) -> str:
    """The card of the generator in `source`.

    Args:
        source: holds generator.safetensors and generator.json.
        run: the folder of the run it comes from, whose config.yaml, summary.json, evaluations and so on are read where
            they are there.
        licence: its licence, in the user's words.
        parameters: how many it has.
        files: what it is passed on as, listed with their sha256.
        needs: packages besides torch that its source imports.

    Raises:
        UserError: there is no readable generator in `source`.
    """
    known = gather(source, run)
    sections = {
        "What it is": [*_what(known, parameters), *_picture(files)],
        "Intended use": _use(),
        "Training data": _data(known),
        "Training": _training(known),
        "Measured": _measured(known),
        "Known limits": limits(known),
        "Risks": _risks(),
        "Licence": [code(licence) if licence else NOT_STATED],
        "How to load it": _loading(known, files, needs),
        "Files": _files(files),
    }
    body = [line for title, lines in sections.items() if lines for line in (f"## {title}\n", *lines, "")]
    heading = f"# {_name(known)}\n"
    return "\n".join([_head(known, licence, files), MARK, "", heading, *body]).rstrip() + "\n"


def _head(known: Facts, licence: str | None, files: Sequence[Written]) -> str:
    """What the Hub reads. Its identifiers are lower-case words; what is none is left out, or told below."""
    stated = " ".join(redact(licence or "").lower().split())
    named = {"license": stated if SLUG.fullmatch(stated) else "other" if stated else "unknown"}
    if named["license"] == "other":
        named["license_name"] = "-".join(re.findall("[a-z0-9.]+", stated)) or "other"
    suffixes = {Path(file.name).suffix for file in files}
    formats = [name for name in ("safetensors", "onnx") if f".{name}" in suffixes]
    tags = ["gan", "pytorch", *formats, str(at(known.summary, "variant"))]
    head = {
        **named,
        "library_name": "gantry",
        "pipeline_tag": "unconditional-image-generation",
        "tags": [tag for tag in dict.fromkeys(tags) if SLUG.fullmatch(tag)],
    }
    data = str(_dataset(known))
    return f"---\n{yaml.safe_dump(head | ({'datasets': [data]} if SLUG.fullmatch(data) else {}), sort_keys=False)}---"


def _name(known: Facts) -> str:
    variant = known.summary.get("variant") or known.tags.get("variant")
    what = f"{code(variant)} generator" if variant else "Generator"
    data = _dataset(known)
    return what + (f" of {code(data)} images" if data else "")


def _dataset(known: Facts) -> object:
    return known.summary.get("dataset") or known.tags.get("dataset")


def _what(known: Facts, parameters: int | None) -> list[str]:
    network = known.network
    shape = network.get("image_shape")
    size = UNKNOWN
    if isinstance(shape, list) and len(shape) == 3:
        channels, height, width = map(count, shape)
        size = f"{width} x {height} pixels, {'grey' if channels == '1' else f'{channels} channels'}"
    chosen = {name: value for name, value in network.items() if name not in ("_target_", "z_dim", "image_shape")}
    of = {"best": "the run's best step by its first metric", "last": "the run's last step"}.get(known.which or "")
    averaged = None
    if known.which and (half_life := at(known.config, "model.ema.half_life")) is not None:
        averaged = f"yes, a moving average over training with a half-life of {count(half_life)} images"
    return [
        "A generator of a generative adversarial network (GAN): it makes an image of a vector of random numbers.",
        "",
        f"- variant: {code(known.summary.get('variant') or known.tags.get('variant'))}",
        f"- network: {code(network.get('_target_'))}{f', {code(json.dumps(chosen))}' if chosen else ''}",
        f"- parameters: {count(parameters)}",
        f"- takes: float32 (B, {count(network.get('z_dim'))}), independent and standard normal",
        f"- makes: float32 (B, C, H, W) in [-1, 1]; {size}",
        f"- weights: of generator step {count(known.step)}{f', {of}' if of else ''}",
        *([f"- averaged: {averaged}"] if averaged else []),
    ]


def _picture(files: Sequence[Written]) -> list[str]:
    shown = any(file.name == PICTURE for file in files)
    return ["", f"![What it makes of its first random vectors, none chosen]({PICTURE})"] if shown else []


def _use() -> list[str]:
    return [
        "Study and teaching: looking at what a GAN learns, comparing methods, trying what generated images are good "
        "for, such as adding to training data, with a check on real images.",
        "",
        "Not meant for: images that are taken for evidence of real people, things or events; decisions about people; "
        "a replacement of the data set where its proportions matter.",
    ]


def _data(known: Facts) -> list[str]:
    protocol = mapping(known.summary.get("protocol"))
    node = mapping(known.config.get("data"))
    if not node and not protocol and not _dataset(known):
        return [f"The data it was trained on is {UNKNOWN}."]
    classes = mapping(known.summary.get("classes"))
    # Of the config only what describes images: a path or an address is of the machine it was trained on.
    prepared = {name: node[name] for name in ("split", "image_size", "channels", "flip") if name in node}
    measured = protocol or known.tags
    prefix = "" if protocol else "metrics."
    return [
        f"- data set: {code(_dataset(known))}, made by {code(node.get('_target_'))}",
        f"- prepared with: {code(json.dumps(prepared)) if prepared else UNKNOWN}",
        f"- compared with: {count(measured.get(f'{prefix}n_real'))} images of it, "
        f"split {code(measured.get(f'{prefix}split'))}, digest {code(measured.get(f'{prefix}data_digest'))}",
        f"- classes: {listed(classes) if classes else UNKNOWN}",
    ]


def _training(known: Facts) -> list[str]:
    config, summary = known.config, known.summary
    if not config and not summary:
        return [f"How it was trained is {UNKNOWN}: it comes without its run."]
    model = mapping(config.get("model"))
    packages = mapping(known.environment.get("packages"))
    versions = {"python": known.environment.get("python")} | {
        name: packages.get(name) for name in ("torch", "pytorch-lightning", "gantry-gan")
    }
    said = ", ".join(f"{name} {code(version)}" for name, version in versions.items() if version)
    commit = known.tags.get("git.commit")
    dirty = " with changes that were not committed" if known.tags.get("git.dirty") == "true" else ""
    return [
        f"- generator steps: {count(known.step)} of {count(summary.get('steps', config.get('steps')))}",
        f"- real images seen by the end of the run: {count(summary.get('images'))}",
        f"- batch: {count(config.get('batch_size'))}; discriminator steps in a generator step: "
        f"{count(model.get('n_critic'))}",
        f"- loss: {_call(model.get('loss'))}",
        f"- penalties: {_calls(model.get('penalties'))}; constraints: {_calls(model.get('constraints'))}",
        f"- optimiser: {_call(model.get('optimizer'))}",
        f"- discriminator: {_call(model.get('discriminator'))}",
        f"- precision: {code(at(config, 'trainer.precision'))}; seed: {code(config.get('seed'))}",
        f"- versions: {said or UNKNOWN}",
        f"- commit of Gantry's checkout: {code(commit)}{dirty}",
    ]


def _measured(known: Facts) -> list[str]:
    lines: list[str] = []
    if known.values:
        protocol = mapping(known.summary.get("protocol"))
        lines += ["In training:", "", *_table(known.values, {}), "", *_protocol(protocol, known.values), ""]
    for record in known.evaluations:
        values, settings = mapping(record.get("values")), mapping(record.get("settings"))
        if values:
            lines += [f"Afterwards, {code(record.get('description'))}, under the key {code(record.get('key'))}:", ""]
            lines += [
                *_table(values, mapping(record.get("spread"))),
                "",
                *_protocol(settings, values, bool(record.get("spread"))),
                "",
            ]
    return lines[:-1] or ["Nothing that was measured of these weights is known."]


def _table(values: Mapping[str, Any], spread: Mapping[str, Any]) -> list[str]:
    """A row a value, and what ± stands beside it."""
    rows = ["| | value | ± |" if spread else "| | value |", "| --- | --- | --- |" if spread else "| --- | --- |"]
    for name, value in values.items():
        cells = [code(name), number(value), *([number(spread[name]) if name in spread else ""] if spread else [])]
        rows.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return rows


def _protocol(settings: Mapping[str, Any], values: Mapping[str, Any], spread: bool = False) -> list[str]:
    if not settings:
        return ["How they were measured is not known: they compare with nothing."]
    named = ("n_generated", "n_real", "data", "split", "extractor", "extractor_sha256")
    generated, real, data, split, extractor, digest = (settings.get(name) for name in named)
    rest = {name: value for name, value in settings.items() if name not in named}
    standard = extractor == "inception" and generated == STANDARD_COUNT and "fid" in values
    return [
        *(["± is one standard deviation over draws of as many generated images.", ""] if spread else []),
        f"{count(generated)} generated images, not truncated, against {count(real)} real ones of {code(data)}, "
        f"split {code(split)}, seen by the extractor {code(extractor)} with the weights {code(digest)}"
        + (f"; {', '.join(f'{code(name)}: {code(value)}' for name, value in rest.items())}." if rest else "."),
        STANDARD if standard else NOT_STANDARD,
    ]


def _risks() -> list[str]:
    return [
        "- A generator repeats the imbalances of its data set and tends to sharpen them: what is rare there becomes "
        "rarer. Where the data show people, that goes for groups of people.",
        "- It may repeat training images, wholly or in part. Where these are private, show people or are under "
        "another's rights, treat its images as if they were from the data set.",
        "- Its images are not marked as generated. Whoever shows them should say so.",
    ]


def _loading(known: Facts, files: Sequence[Written], needs: Sequence[str]) -> list[str]:
    shape = known.network.get("image_shape")
    channels, height, width = shape if isinstance(shape, list) and len(shape) == 3 else ("C", "H", "W")
    size = {"z_dim": known.network.get("z_dim"), "channels": channels, "height": height, "width": width}
    size = {name: value if isinstance(value, int) else name for name, value in size.items()}
    lines = [LOADING[file.name].format(**size) for file in files if file.name in LOADING]
    if lines and needs:
        lines.append(f"The network's source also needs {', '.join(map(code, needs))}.\n")
    return ["\n".join(lines).rstrip()] if lines else []


def _files(files: Sequence[Written]) -> list[str]:
    if not files:
        return []
    rows = ["| | bytes | sha256 | its images differ from the network's by |", "| --- | --- | --- | --- |"]
    for file in files:
        differs = "" if file.difference is None else "nothing" if file.difference == 0 else f"{file.difference:.1g}"
        name = code(file.name).replace("|", r"\|")
        rows.append(f"| {name} | {file.path.stat().st_size:,} | `{file.sha256}` | {differs} |")
    return rows


def _call(node: object) -> str:
    """What a config node makes, and of what."""
    has = mapping(node)
    options = {name: value for name, value in has.items() if name not in ("_target_", "_partial_")}
    return code(has.get("_target_")) + (f" {code(json.dumps(options, default=str))}" if options else "")


def _calls(nodes: object) -> str:
    return (", ".join(map(_call, nodes)) or "none") if isinstance(nodes, list) else UNKNOWN
