"""Prepares the pages for MkDocs: links that leave docs/, and the tables of options, from conf/ and the declarations."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from gantry.core.config.reference import section

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
# Files outside docs/ that pages lead to.
COPIED = (".github/images/*", "benchmarks/*.md", "benchmarks/*.png", "examples/**/*.*", "CONTRIBUTING.md")
LINK = re.compile(r"(?<=\]\()(?!https?:|#)([^)\s#]+)")
LINE = re.compile(r"(?P<indent> *)(?P<key>[\w.]+):(?P<value>.*?)(?: # (?P<comment>.*))?$")
TABLES = re.compile(r"<!-- options: (?P<what>\S+) -->")
DECLARED = re.compile(r"<!-- declared: (?P<command>\w+) -->")
SEPARATELY = ("defaults", "hydra")  # keys that are not options of a run


def on_files(files: Any, config: Any) -> Any:
    """Add the pictures, figures and examples that stand elsewhere in the repository."""
    from mkdocs.structure.files import File

    for path in sorted({path for pattern in COPIED for path in ROOT.glob(pattern) if path.is_file()}):
        if "__pycache__" not in path.parts:
            files.append(
                File.generated(config, site_path(PurePosixPath(path.relative_to(ROOT))), abs_src_path=str(path))
            )
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Fill in the tables, and have links lead to where the site has their targets."""
    markdown = TABLES.sub(lambda match: "\n".join(tables(match["what"])), markdown)
    markdown = DECLARED.sub(lambda match: "\n".join(section(match["command"])), markdown)
    return LINK.sub(lambda match: link(page.file, match[1]), markdown)


def site_path(path: PurePosixPath) -> str:
    """Where the site has a file of the repository; MkDocs leaves out names that begin with a dot."""
    return path.relative_to("docs").as_posix() if path.parts[0] == "docs" else "repository/" + str(path).lstrip(".")


def link(file: Any, target: str) -> str:
    """The link from a page to `target`, which is relative to the page's place in the repository."""
    folder = Path(file.abs_src_path).parent.relative_to(ROOT)
    path = PurePosixPath(posixpath.normpath(posixpath.join(folder.as_posix(), target)))
    return posixpath.relpath(site_path(path), posixpath.dirname(file.src_uri) or ".")


def tables(what: str) -> Iterator[str]:
    """The options of a file of conf/, or of each file of a group, as Markdown."""
    folder = CONF / what
    for path in sorted(folder.glob("*.yaml")) if folder.is_dir() else [folder.with_suffix(".yaml")]:
        yield from table(path, titled=folder.is_dir())


def table(path: Path, titled: bool = True) -> Iterator[str]:
    """A file's description and a row for each option: key, default, what stands behind it."""
    text = path.read_text()
    if titled:
        yield f"### `{path.relative_to(CONF).with_suffix('').as_posix()}`"
        yield ""
        about = [line[2:] for line in text.splitlines() if line.startswith("# ") and not line.startswith("# @")]
        yield from (" ".join(about), "")
    rows = list(options(text))
    if rows:
        yield from ("| option | default | |", "| --- | --- | --- |")
        yield from (f"| `{key}` | {code(value)} | {cell(comment)} |" for key, value, comment in rows)
    yield ""


def options(text: str) -> Iterator[tuple[str, str, str]]:
    """Dotted key, default and comment of every line of YAML that has a value or a comment."""
    above: list[tuple[int, str]] = []
    for line in text.splitlines():
        match = LINE.fullmatch(line)
        if match is None:
            continue
        indent = len(match["indent"])
        above = [(column, key) for column, key in above if column < indent] + [(indent, match["key"])]
        keys = [key for _, key in above]
        value, comment = match["value"].strip(), match["comment"] or ""
        if keys[0] not in SEPARATELY and (value or comment):
            yield ".".join(keys), value, comment


def cell(text: str) -> str:
    """Text that does not end a table's cell."""
    return text.replace("|", "\\|")


def code(text: str) -> str:
    """A cell of code; empty for a key that only groups others."""
    return f"`{cell(text)}`" if text else ""
