"""Where the project is, and which variants it has."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
VARIANTS = sorted(path.stem for path in (ROOT / "conf" / "model").glob("*.yaml") if path.stem != "base")
