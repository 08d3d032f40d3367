"""Writes the model card of an exported generator (Mitchell et al. 2019, Model Cards for Model Reporting).

It is Markdown with a YAML header, as on Hugging Face. Names and choices read from files are set in code spans, so that
nothing in them is markup; missing facts are stated to be unknown.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml
from jinja2.runtime import LoopContext
from markupsafe import Markup

from gantry.core.redaction import redact
from gantry.data.alpha import SAID
from gantry.evaluation.metrics.class_shares import COVERED
from gantry.evaluation.protocol import STANDARD_COUNT
from gantry.generation.export.facts import gather, is_number, mapping

FILE, PICTURE, TEMPLATE = "README.md", "samples.png", "model_card.md.j2"
MARK = "<!-- Written by Gantry; an export to this folder writes it anew. -->"
NOT_STATED = (
    "Not stated. Whoever passes this generator on must state it, and see to it that the licence of the data it was "
    "trained on allows it."
)
NAMED = ("n_generated", "n_real", "data", "split", "extractor", "extractor_sha256")  # settings stated in words
SLUG = re.compile(r"[a-z0-9][a-z0-9._-]*")
UNKNOWN, MISSING = Markup("not known"), Markup("missing")
LONGEST = 200  # largest number of characters of a value
MOST = 10  # largest number of names in a list
MOST_LABELS = 20  # of which the card names the classes


@dataclass(frozen=True)
class Written:
    """A file of an export.

    Attributes:
        folder: of the export.
        name: path in it, with / between the parts.
        difference: the largest between its images and the network's; None if it generates none.
    """

    folder: Path
    name: str
    difference: float | None = None

    @property
    def path(self) -> Path:
        """Its path."""
        return self.folder / self.name

    @property
    def sha256(self) -> str:
        """The sha256 of its content, in hexadecimal."""
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
    """Write the card of the generator in `source`.

    Args:
        source: contains generator.safetensors and generator.json.
        run: the folder of the run it comes from, whose config.yaml, summary.json, evaluations and so on are read if
            they exist.
        licence: its licence, in the user's words.
        parameters: number of its parameters.
        files: the exported files, listed with their sha256.
        needs: packages besides torch that its source imports.

    Raises:
        UserError: there is no readable generator in `source`.
    """
    facts = gather(source, run)
    network = facts["network"]
    shape = network.get("image_shape")
    text = _template().render(
        facts,
        head=Markup(_head(facts, licence, files)),
        mark=Markup(MARK),
        options={name: network[name] for name in network if name not in ("_target_", "z_dim", "image_shape")},
        shape=shape if isinstance(shape, list) and len(shape) == 3 else None,
        parameters=parameters,
        picture=PICTURE,
        further=Markup(", labels" if facts["labels"] else ""),
        most_labels=MOST_LABELS,
        names=[file.name for file in files],
        files=[{**vars(file), "bytes": file.path.stat().st_size, "sha256": file.sha256} for file in files],
        needs=needs,
        licence=licence,
        not_stated=NOT_STATED,
        named=NAMED,
        alpha=SAID,
        standard_count=STANDARD_COUNT,
    )
    return text.rstrip() + "\n"


def _head(facts: Mapping[str, Any], licence: str | None, files: Sequence[Written]) -> str:
    """Return the YAML header for the Hub, whose identifiers are lower-case words; other names are left to the text."""
    stated = " ".join(redact(licence or "").lower().split())
    named = {"license": stated if SLUG.fullmatch(stated) else "other" if stated else "unknown"}
    if named["license"] == "other":
        named["license_name"] = "-".join(re.findall("[a-z0-9.]+", stated)) or "other"
    suffixes = {Path(file.name).suffix for file in files}
    formats = [name for name in ("safetensors", "onnx") if f".{name}" in suffixes]
    tags = ["gan", "pytorch", *formats, str(facts["summary"].get("variant"))]
    kind = {} if facts["labels"] else {"pipeline_tag": "unconditional-image-generation"}  # the Hub has none for classes
    tags += ["class-conditional"] if facts["labels"] else []
    head = {
        **named,
        "library_name": "gantry",
        **kind,
        "tags": [tag for tag in dict.fromkeys(tags) if SLUG.fullmatch(tag)],
    }
    data = str(facts["dataset"])
    return yaml.safe_dump(head | ({"datasets": [data]} if SLUG.fullmatch(data) else {}), sort_keys=False)


class _Card(jinja2.Environment):
    """Templates in which `a.b` and `a["b"]` read values of mappings only, None if there is none."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        return super().getattr(obj, attribute) if isinstance(obj, LoopContext) else self.getitem(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(obj, list) and isinstance(argument, int):
            return obj[argument]
        return mapping(obj).get(argument)


def _template() -> jinja2.Template:
    card = _Card(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=code,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    card.filters |= {one.__name__: one for one in (code, cell, listed, number, count, call, calls, rare, spec, whole)}
    card.filters["json"] = lambda value: json.dumps(value, default=str)
    return card.get_template(TEMPLATE)


def code(value: object) -> Markup:
    """Return a value as a code span: one line, in which no character is markup, with passwords redacted."""
    if isinstance(value, Markup):
        return value
    if value is None or value == "":
        return UNKNOWN
    text = redact(" ".join(str(value).split())).replace("`", "'")
    text = "".join(character for character in text if character.isprintable()).strip() or "?"
    return Markup(f"`{text if len(text) <= LONGEST else text[: LONGEST - 1] + '…'}`")


def cell(value: object) -> Markup:
    """Return a value as a code span in a table."""
    return Markup(str(code(value)).replace("|", r"\|"))


def listed(names: Iterable[object]) -> Markup:
    """Return the first `MOST` names in code spans."""
    every = list(names)
    more = f" and {len(every) - MOST} more" if len(every) > MOST else ""
    return Markup(", ".join(map(code, every[:MOST])) + more)


def number(value: object) -> Markup:
    """Format a measured value."""
    return spec(value, ".6g") if is_number(value) else MISSING


def count(value: object) -> Markup:
    """Format a whole number, which is text in a tag."""
    text = str(value)
    return spec(int(text), ",") if re.fullmatch(r"\d{1,18}", text) else UNKNOWN


def whole(value: object, name: str) -> Markup:
    """Return a whole number for a code example, or the placeholder `name`."""
    return Markup(value if isinstance(value, int) else name)


def spec(value: float, form: str) -> Markup:
    """Format a number by a format specification."""
    return Markup(format(value, form))


def call(node: object) -> Markup:
    """Return the class or function that a config node calls, and its arguments."""
    has = mapping(node)
    options = {name: value for name, value in has.items() if name not in ("_target_", "_partial_")}
    return code(has.get("_target_")) + (" " + code(json.dumps(options, default=str)) if options else "")


def calls(nodes: object) -> Markup:
    """Return the calls of the config nodes in a list."""
    return (Markup(", ").join(map(call, nodes)) or Markup("none")) if isinstance(nodes, list) else UNKNOWN


def rare(shares: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the classes that a generator draws far less often than they occur."""
    few = [share for share in shares if share["made"] < COVERED * share["real"]]
    return [f"{share['name']} {share['made']:.1%} against {share['real']:.1%}" for share in few]
