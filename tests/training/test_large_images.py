"""A run of 256 pixels with tiny networks, from the data to the pictures: seconds on two cores."""

import re

import pytest
from PIL import Image

from gantry.commands import sample, train

TINY = ["model.generator.width=2", "model.discriminator.width=2", "batch_size=4", "steps=3", "metrics.every=2"]


@pytest.mark.parametrize(
    "network", [pytest.param("model=r3gan", marks=pytest.mark.slow), "model=sngan model/network=resnet"]
)
def test_256_pixels_train_end_to_end(typed, tmp_path, cache, network):
    run = tmp_path / "run"
    where = [f"paths.cache={cache}", f"paths.root={tmp_path}"]
    data = ["data=digits", "data.image_size=256", "max_images=40", "metrics.n_generated=20", "metrics.measures=[fid]"]
    options = [*network.split(), *data, *TINY, "tracking=none", f"hydra.run.dir={run}"]
    code, out, said = typed(train.main, *options, *where)
    assert code == 0, out + said
    assert "256x256 greyscale" in out
    (line,) = re.findall(r"^memory: .*", out, re.MULTILINE)
    assert re.fullmatch(
        r"memory: \d+ MiB for a step of 4 images \(weights, gradients and optimizer \d+ MiB, activations \d+ MiB\); "
        r"this machine has [\d.]+ GiB free of [\d.]+ GiB",
        line,
    )
    for name in ("real/0000000", "samples/0000003"):  # 64 samples, reduced to 128 pixels; 40 real ones
        with Image.open(run / f"{name}.png") as grid:
            assert grid.width == 8 * 129 + 1
    with Image.open(run / "samples.gif") as film:
        assert max(film.size) < 400
    assert (run / "samples/0000003.png").stat().st_size < 2_000_000

    code, out, said = typed(sample.main, f"run={run}", "n=1", f"out={tmp_path}/one.png", *where)
    assert code == 0, out + said
    with Image.open(tmp_path / "one.png") as one:
        assert one.size == (256, 256)  # in full
