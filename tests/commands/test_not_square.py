"""Pictures that are not square, from the files to the report: each command as a user types it."""

import json

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from gantry.commands import compare, evaluate, sample, train

SHAPE = "data.image_size=[12,16]"
SMALL = ["model=dcgan", "model.generator.width=4", "model.discriminator.width=4", "batch_size=8", "steps=4"]


@pytest.fixture
def pictures(tmp_path):
    """Forty-eight pictures of two classes, most of other proportions than 12 by 16."""
    random = np.random.default_rng(0)
    for number in range(48):
        kind = ("cat", "dog")[number % 2]
        height, width = ((24, 32), (12, 16), (40, 30))[number % 3]
        pixels = random.integers(0, 128, (height, width, 3), np.uint8)
        pixels[..., 2 * (number % 2)] += 120
        path = tmp_path / f"pets/{kind}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return tmp_path / "pets"


def test_from_the_files_to_the_report(typed, tmp_path, pictures, cache):
    run = tmp_path / "run"
    where = [f"paths.cache={cache}", f"paths.root={tmp_path}"]  # compare.py has no cache
    data = ["data=image_folder", f"data.folder={pictures}", SHAPE, "metrics=classifier", "metrics.n_generated=32"]

    def done(main, *arguments):
        code, out, said = typed(main, *arguments, *where[main is compare.main :])
        assert code == 0, out + said
        return out

    said = done(train.main, *SMALL, *data, "metrics.every=2", "tracking=none", f"hydra.run.dir={run}")
    assert "pets: 48 images (all), 16x12 (width x height) colour" in said
    assert "16 cropped to the central 4:3 (43% of a picture cut off at most)" in said
    with Image.open(run / "samples/0000004.png") as grid, Image.open(run / "samples.gif") as film:
        assert grid.size == (3 * (8 * 17 + 1), 3 * (8 * 13 + 1))
        assert film.size == (2 * (8 * 17 + 1), 2 * (8 * 13 + 1))

    sampled = [f"run={run}", f"out={tmp_path}/made"]
    done(sample.main, *sampled, "n=30")
    with Image.open(next((tmp_path / "made").rglob("*.png"))) as one:
        assert one.size == (16, 12)
    done(sample.main, f"run={run}", "n=4", f"out={tmp_path}/made.npz")
    assert np.load(tmp_path / "made.npz")["arr_0"].shape == (4, 12, 16, 3)
    for options, size in {
        ("n=4",): (2, 2),
        ("interpolate=2", "frames=3", "n=2"): (4, 2),
        ("latent_grid=3",): (3, 3),
        (f"project={pictures}/cat/0.png",): (2, 1),
    }.items():
        picture = tmp_path / f"{options[0].partition('=')[0]}.png"
        done(sample.main, f"run={run}", *options, f"out={picture}")
        with Image.open(picture) as drawn:
            assert drawn.size == (3 * (size[0] * 17 + 1), 3 * (size[1] * 13 + 1))
    done(sample.main, f"run={run}", f"export={tmp_path}/export")
    made = json.loads((tmp_path / "export/generator.json").read_text())
    assert made["image_shape"] == [3, 12, 16]
    assert load_file(tmp_path / "export/generator.safetensors")
    assert "16 x 12 pixels" in (tmp_path / "export/README.md").read_text()

    done(sample.main, f"run={run}", "register=wide")
    done(sample.main, "run=models:/wide/1", "n=4", f"out={tmp_path}/registered.npz")
    own, registered = (np.load(tmp_path / f"{name}.npz")["arr_0"] for name in ("made", "registered"))
    assert np.array_equal(own, registered)

    out = done(
        evaluate.main, f"images={tmp_path}/made", *data[:3], "extractor=classifier", "measures=[fid,kid]", "n=30"
    )
    assert "fid" in out
    done(compare.main, f"runs=[{run}]", f"out={tmp_path}/report")
    with Image.open(tmp_path / "report/samples.png") as sheet:
        assert sheet.width > sheet.height


def test_generated_pictures_of_another_shape_are_refused_with_the_option_that_takes_them(typed, tmp_path, cache):
    np.savez(tmp_path / "made.npz", np.zeros((30, 12, 16, 1), np.uint8))
    images = [f"images={tmp_path}/made.npz", "data=digits", f"paths.cache={cache}", f"paths.root={tmp_path}"]
    code, _, said = typed(evaluate.main, *images, "extractor=classifier")
    assert code != 0
    assert "data.image_size=[12,16]" in said
