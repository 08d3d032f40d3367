"""A model card says what is known of a generator, with its protocol, and nothing that stands in a file can break it."""

import json
import math
import re

import pytest
import torch
import yaml
from sharing_helpers import small

from gantry.generation.export.model_card import MARK, NOT_STATED, Written, model_card
from gantry.runs.generators import ExportedFiles

PROTOCOL = {
    "extractor": "classifier",
    "extractor_sha256": "d1fccfb5" * 8,
    "classifier_accuracy": 0.9889,
    "data": "digits",
    "data_digest": "c162" * 16,
    "split": "all",
    "n_real": 1797,
    "n_generated": 2000,
}
CONFIG = {
    "data": {"_target_": "gantry.data.sources.digits", "image_size": 8, "flip": False, "root": "/home/me/secret"},
    "model": {
        "loss": {"_target_": "gantry.models.losses.wasserstein", "_partial_": True},
        "penalties": [{"_target_": "gantry.models.penalties.GradientPenalty", "weight": 10.0}],
        "constraints": [],
        "optimizer": {"_target_": "torch.optim.Adam", "lr": 2e-4, "betas": [0.5, 0.999]},
        "n_critic": 5,
        "ema": {"half_life": 10000},
    },
    "seed": 3,
    "steps": 7,
    "batch_size": 128,
    "tracking": {"uri": "${paths.root}/mlruns"},
}
HOSTILE = [
    "a\n---\nlicense: mit\n# Owned",
    "<script>alert(1)</script>",
    "`</code>` ![x](http://x) | [y](javascript:z)",
    "'\": {}[]!!python/object:os.system #",
    "\u202egnp\u200b\x00\x1b[31m",
    "https://me:hunter2@host/data",
    "$x$ *b* _i_ ~~s~~ <!-- -->",
]


@pytest.fixture
def run(tmp_path):
    """A finished run's folder, of which the best step is the last."""
    folder = tmp_path / "run"
    small(folder / "generator" / "best")
    values = {
        "fid_classifier": 0.9947446049,
        "kid_classifier": None,
        "modes_classifier": 9.0,
        "raw/fid_classifier": 5.0,
    }
    summary = {
        "variant": "wgan_gp",
        "dataset": "digits",
        "steps": 7,
        "best_step": 7,
        "images": 4480,
        "best": values,
        "final": values,
        "protocol": PROTOCOL,
        "caveats": ["the classifier of digits judges at chance level"],
        "classes": {"one": [0.1, 0.004], "two": [0.9, 0.996]},
    }
    write(folder, "summary.json", summary)
    write(folder, "tags.json", {"git.commit": "5" * 40, "git.dirty": "true"})
    write(folder, "environment.json", {"python": "3.11.7", "packages": {"torch": "2.14.1"}})
    write(folder, "config.yaml", CONFIG)
    return folder


def write(folder, name, values):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(values))


def evaluated(run, key="test10k_01234567", **changes):
    """Record an evaluation of the run's best generator."""
    record = {
        "key": key,
        "step": 7,
        "description": "10,000 generated images",
        "values": {"fid_classifier": 1.25, "copy_rate_classifier": math.nan},
        "spread": {"fid_classifier": 0.03},
        "settings": PROTOCOL | {"n_generated": 10000, "split": "test"},
        "subject": {"sha256": ExportedFiles(run / "generator" / "best", ()).digest()},
        "classes": None,
        "memorisation": {"copy_rate": 0.0028, "copy_rate_expected": 0.01, "copy_rate_std": 0.002, "held_out_images": 5},
    }
    write(run, f"evaluations/{key}/step_7.json", record | changes)


def parsed(card):
    """The YAML head, and the lines below it."""
    start, head, body = card.split("---\n", 2)
    assert start == ""
    return yaml.safe_load(head), body


def rows(card):
    """The cells of its tables by their first."""
    lines = [line for line in card.splitlines() if line.startswith("| `")]
    return {cells[1].strip(" `"): [cell.strip() for cell in cells[2:-1]] for cells in (x.split("|") for x in lines)}


def test_it_says_what_the_runs_files_say(run):
    card = model_card(run / "generator" / "best", run, licence="Apache-2.0", parameters=1234)
    head, body = parsed(card)
    assert head["license"] == "apache-2.0"
    assert head["datasets"] == ["digits"]
    assert "wgan_gp" in head["tags"]
    assert MARK in body
    for said in (
        "parameters: 1,234",
        "generator steps: 7 of 7",
        "real images seen by the end of the run: 4,480",
        '`gantry.models.penalties.GradientPenalty` `{"weight": 10.0}`',
        '`torch.optim.Adam` `{"lr": 0.0002, "betas": [0.5, 0.999]}`',
        "seed: `3`",
        "torch `2.14.1`",
        f"`{'5' * 40}` with changes that were not committed",
        "16 x 16 pixels, 3 channels",
    ):
        assert said in body
    assert "/home/me" not in card


def test_values_go_with_their_protocol_and_missing_ones_are_missing(run):
    evaluated(run)
    card = model_card(run / "generator" / "best", run)
    training, afterwards = card.partition("## Measured")[2].split("Afterwards")
    assert rows(training) == {"fid_classifier": ["0.994745"], "kid_classifier": ["missing"], "modes_classifier": ["9"]}
    assert rows(afterwards) == {"fid_classifier": ["1.25", "0.03"], "copy_rate_classifier": ["missing", ""]}
    assert "2,000 generated images, not truncated, against 1,797 real ones of `digits`, split `all`" in training
    assert "10,000 generated images, not truncated, against 1,797 real ones of `digits`, split `test`" in afterwards
    for part in (training, afterwards):
        assert f"`{'d1fccfb5' * 8}`" in part
        assert "not the papers'" in part
    assert "measured on 10,000 images at most" in card
    assert "What speaks against the values: `the classifier of digits judges at chance level`." in card
    assert "Modes are missing: classes drawn less than a tenth as often as they occur: `one 0.4% against 10.0%`" in card
    few = {"copy_rate": 0.5, "copy_rate_expected": 0.01, "copy_rate_std": 0.2}
    evaluated(run, key="z", settings=PROTOCOL, memorisation=few)  # the word of the most images counts
    card = model_card(run / "generator" / "best", run)
    assert "0.28% of them are as near to a training image as the nearest 1.0% of held-out real images" in card


def test_the_papers_protocol_alone_is_called_theirs(run):
    papers = PROTOCOL | {"extractor": "inception", "n_generated": 50000, "split": "train"}
    evaluated(run, values={"fid": 3.0}, settings=papers)
    card = model_card(run / "generator" / "best", run)
    assert "those of the papers, measured as they do" in card
    evaluated(run, values={"fid": 3.0}, settings=papers | {"n_generated": 500})
    assert "those of the papers, measured as they do" not in model_card(run / "generator" / "best", run)


def test_what_was_measured_of_other_weights_is_left_out(run, tmp_path):
    evaluated(run, subject={"sha256": "0" * 64})
    card = model_card(run / "generator" / "best", run)
    assert "Afterwards" not in card
    torch.manual_seed(1)
    small(tmp_path / "other")
    card = model_card(tmp_path / "other", run)
    assert "Nothing that was measured of these weights is known." in card
    assert "0.9947" not in card
    assert "`gantry.models.losses.wasserstein`" in card


def test_a_generator_without_its_run_says_what_is_not_known(tmp_path):
    small(tmp_path)
    (tmp_path / "x.bin").write_bytes(b"abc")
    head, body = parsed(model_card(tmp_path, files=[Written(tmp_path, "x.bin", 2e-7)]))
    assert head["license"] == "unknown"
    assert "datasets" not in head
    assert NOT_STATED in body
    assert "The data it was trained on is not known." in body
    assert "How it was trained is not known" in body
    assert "generator step 7" in body
    assert "was not measured" in body
    sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert rows(body)["x.bin"] == ["3", f"`{sha256}`", "2e-07"]


@pytest.mark.parametrize("text", HOSTILE)
def test_names_cannot_break_it(run, text):
    plain = model_card(run / "generator" / "best", run, licence="x")
    summary = json.loads((run / "summary.json").read_text())
    summary |= {"variant": text, "dataset": text, "classes": {text: [0.5, 0.001], "b": [0.5, 0.9]}}
    summary["protocol"] = PROTOCOL | {"data": text, "split": text, text: text}
    summary["caveats"] = [text]
    summary["best"] = {text: 1.0, "kid_classifier": None, "modes_classifier": text}
    write(run, "summary.json", summary)
    write(
        run, "config.yaml", CONFIG | {"seed": text, "model": CONFIG["model"] | {"loss": {"_target_": text, text: text}}}
    )
    write(run, "tags.json", {"git.commit": text})
    evaluated(run, key="k", description=text, values={text: text}, settings={"n_generated": text, "data": text})
    card = model_card(run / "generator" / "best", run, licence=text, needs=[text])
    head, body = parsed(card)
    assert head["license"] == "other"
    assert re.fullmatch("[a-z0-9.-]+", head["license_name"])
    assert "datasets" not in head
    assert "hunter2" not in card
    assert all(character.isprintable() or character == "\n" for character in card)

    def headings(card):
        return [line for line in card.splitlines() if line.startswith("#")][1:]

    assert headings(card) == headings(plain)
    # Without its code spans, whose ends no name can hold, the card has nothing of the names.
    bare = re.sub(r"```.*?```", "", body.replace(MARK, ""), flags=re.DOTALL)
    assert not any(line.count("`") % 2 for line in bare.splitlines())
    bare = re.sub(r"`[^`\n]*`", "", bare)
    assert not re.search(r"<(?!this folder)|Owned|script|javascript|http|license|\$x", bare)
    cells = {len(re.split(r"(?<!\\)\|", line)) for line in body.splitlines() if line.startswith("| `")}
    assert cells <= {4, 5}


@pytest.mark.parametrize(
    "content", ["", "[]", "null", '{"best": 3, "protocol": [], "classes": {"a": 1}}', '{"variant": {}}']
)
def test_damaged_records_are_unknown(run, content):
    for name in ("summary.json", "tags.json", "environment.json", "config.yaml", "evaluations/k/step_7.json"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(content)
    assert "Nothing that was measured" in model_card(run / "generator" / "best", run)
