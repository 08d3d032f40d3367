"""Curves, grids and the map of classes, down to the pixels."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from report_helpers import CLASSES, grid, make_job

from gantry.core.files import write_png
from gantry.data.grid import enlarged_grid, layout
from gantry.reports import curves, pictures
from gantry.reports.ranking import ComparableSet, comparable_sets
from gantry.reports.run import Run, from_folder
from gantry.runs.tracking.folder_tracker import FolderTracker

FID = "fid_classifier"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    folder = tmp_path_factory.mktemp("jobs")
    shares = {name: (0.1, 0.2 if name == "0" else 0.0 if name == "1" else 0.1) for name in CLASSES}
    made = [make_job(folder / f"dcgan_{seed}", "dcgan", seed, final=2.0 + seed, classes=shares) for seed in (0, 1, 2)]
    made.append(make_job(folder / "wgan", "wgan", final=9.0, critics=5, classes=shares))
    made.append(make_job(folder / "lost", "lost", diverges=True))
    made.append(make_job(folder / "begun", "begun", final=60.0, status=None, stops=100))
    return [from_folder(path) for path in made]


@pytest.fixture
def one(runs: list[Run]) -> ComparableSet:
    (found,) = comparable_sets(runs)
    return found


def opened(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def palette_of(content: bytes) -> list[tuple[int, ...]]:
    """The colours that occur in an image."""
    found = Image.open(io.BytesIO(content)).convert("RGB").getcolors(2**24)
    assert found is not None
    return [colour for _, colour in found]  # type: ignore[misc]


def test_a_curve_is_the_mean_over_seeds_with_the_band_around_it(runs: list[Run]) -> None:
    found = curves.band(runs[:3], FID, "steps")
    assert found is not None
    assert found.x.tolist() == [0, 100, 200, 300]
    expected = np.array([100, 200 / 3, 100 / 3, 0])
    assert found.mean == pytest.approx(expected + 3)
    assert found.low == pytest.approx(expected + 2)
    assert found.high == pytest.approx(expected + 4)


def test_the_same_curve_over_images_and_time(runs: list[Run]) -> None:
    wgan = runs[3:4]
    images, seconds = curves.band(wgan, FID, "images"), curves.band(wgan, FID, "seconds")
    assert images is not None
    assert seconds is not None
    assert images.x.tolist() == [0, 64000, 128000, 192000]  # five batches of 128 a generator step
    assert seconds.x.tolist() == [0, 50, 100, 150]


def test_an_axis_that_was_not_recorded_has_no_curves(runs: list[Run]) -> None:
    old = [Run("old", "FINISHED", curves={FID: {0: 2.0, 100: 1.0}})]
    assert curves.band(old, FID, "steps") is not None
    assert curves.band(old, FID, "seconds") is None


def test_a_mean_ends_where_a_seed_diverges(runs: list[Run]) -> None:
    found = curves.band([runs[0], runs[4]], FID, "steps")
    assert found is not None
    assert np.isfinite(found.mean).tolist() == [True, True, False, False]


def test_every_group_keeps_its_colour_in_every_figure(one: ComparableSet) -> None:
    styles = curves.palette(one.groups)
    drawn = curves.draw(one, styles)
    assert set(drawn) == {"steps", "images", "seconds"}
    assert set(drawn["steps"].panels) >= {FID, "inception_score_classifier", "loss/generator", "score/real"}
    for axis in drawn.values():
        for content in (axis.panels[FID], axis.whole):
            there = {f"#{red:02X}{green:02X}{blue:02X}" for red, green, blue in palette_of(content)}
            assert {style.colour for style in styles.values()} <= there


def test_fourteen_groups_look_different_and_further_ones_are_grey() -> None:
    groups = [comparable_sets([_measured(f"v{i}")])[0].groups[0] for i in range(16)]
    styles = list(curves.palette(groups).values())
    assert len(set(styles[:14])) == 14
    assert {style.colour for style in styles[14:]} == {curves.OTHERS}


def _measured(variant: str) -> Run:
    from report_helpers import PROTOCOL

    return Run(variant, "FINISHED", params={"steps": "1"}, tags={"variant": variant} | PROTOCOL, curves={FID: {0: 1.0}})


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("label", ["$x_{", "_hidden", "a\nb", "名前"])
def test_a_name_is_text_whatever_it_looks_like(label: str) -> None:
    (one,) = comparable_sets([_measured(label)])
    assert curves.draw(one, curves.palette(one.groups))["steps"].panels


@pytest.mark.parametrize(("side", "scale"), [(8, 6), (28, 2), (48, 1)])
def test_a_grid_is_cropped_to_whole_images_at_their_own_size(side: int, scale: int) -> None:
    random = np.random.default_rng(0).integers(0, 256, (8 * (side + 1) + 1, 8 * (side + 1) + 1, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(random.repeat(scale, 0).repeat(scale, 1)).save(buffer, "PNG")
    cropped = np.asarray(pictures.crop(buffer.getvalue(), 4))
    assert np.array_equal(cropped, random[: 4 * (side + 1) + 1, : 4 * (side + 1) + 1])


def test_samples_stand_side_by_side_with_the_real_images(one: ComparableSet) -> None:
    found = pictures.samples(one, [100, 300])
    assert found is not None
    assert found.real is not None
    assert {label: sorted(tiles) for label, tiles in found.tiles.items()} == {
        "dcgan": [100, 300],
        "wgan": [100, 300],
        "lost": [100, 300],
        "begun": [100],
    }
    shown = opened(found.tiles["dcgan"][300].content)  # 4 groups: all 64 images
    assert np.array_equal(shown, grid(300)[::6, ::6])
    assert opened(found.whole).shape[1] > 3 * shown.shape[1]


@pytest.mark.parametrize("side", [3, 4, 28, 64])
def test_a_grid_is_cropped_to_its_own_pixels_whatever_it_was_enlarged(tmp_path: Path, side: int) -> None:
    """Of 4 pixels a side it is enlarged 12 times, which its width does not tell."""
    images = torch.randint(0, 256, (64, 3, side, side), dtype=torch.uint8)
    FolderTracker(tmp_path).log_image(enlarged_grid(images), "samples", 1, layout(images))
    cropped = pictures.crop((tmp_path / "samples" / "0000001.png").read_bytes(), 2)
    assert cropped.size == (2 * (side + 1) + 1,) * 2
    assert np.array_equal(np.asarray(cropped)[1 : 1 + side, 1 : 1 + side], images[0].permute(1, 2, 0))


def test_many_large_photographs_stay_small(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8 * 129 + 1, 8 * 129 + 1, 3), dtype=np.uint8)
    write_png(noise, tmp_path / "grid.png")
    cropped = pictures.crop((tmp_path / "grid.png").read_bytes(), 8)
    assert cropped.size == (2 * 129 + 1, 2 * 129 + 1)


def test_a_class_is_shown_by_its_share(one: ComparableSet) -> None:
    found = pictures.shares(one)
    assert found is not None
    names, groups, real, generated = found
    assert names == list(CLASSES)
    assert [group.label for group in groups] == ["dcgan", "wgan"]
    assert real == pytest.approx(0.1)
    assert generated[0] == pytest.approx([0.2, 0.0, *[0.1] * 8])
    assert opened(pictures.coverage(one)).size  # type: ignore[arg-type]


def test_without_classes_there_is_no_map() -> None:
    assert pictures.coverage(comparable_sets([_measured("a")])[0]) is None


@pytest.mark.parametrize("few", [64, 20])
def test_a_grid_of_wide_pictures_is_cropped_to_whole_ones(tmp_path: Path, few: int) -> None:
    images = torch.randint(0, 256, (64, 3, 12, 16), dtype=torch.uint8)
    folder = FolderTracker(tmp_path)
    folder.log_image(enlarged_grid(images), "samples", 1, layout(images))
    folder.log_image(enlarged_grid(images[:few]), "real", 0, layout(images))
    for name in ("samples/0000001", "real/0000000"):
        cropped = pictures.crop((tmp_path / f"{name}.png").read_bytes(), 2, high=13)
        assert cropped.size == (2 * 17 + 1, 2 * 13 + 1)
        assert np.array_equal(np.asarray(cropped)[14:26, 18:34], images[9].permute(1, 2, 0))
