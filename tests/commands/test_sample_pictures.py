"""`python sample.py` of pictures: walks, planes and projections, and what of them is refused."""

import resource

import numpy as np
import pytest
from PIL import Image

from gantry.data.images import decode
from gantry.models.networks import structured
from gantry.runs.generator_files import save_generator


def test_a_walk_comes_back_to_where_it_began(call, tmp_path):
    code, said = call("run=latest", "interpolate=3", "n=4", "frames=2", "out=walk.gif")
    assert code == 0, said
    film = Image.open(tmp_path / "walk.gif")
    assert film.n_frames == 6
    call("run=latest", "n=4", "out=first.png")
    shown = [np.asarray(frame.convert("RGB")) for frame in (film, Image.open(tmp_path / "first.png"))]
    assert np.array_equal(*shown)


def test_a_strip_has_a_row_for_each_walk(call, tmp_path):
    call("run=latest", "interpolate=3", "n=2", "frames=2", "out=strip.png")
    strip = np.asarray(Image.open(tmp_path / "strip.png"))[::6, ::6, 0]
    assert strip.shape == (2 * 9 + 1, 5 * 9 + 1)  # from the first latent to the third in four steps
    call("run=latest", "n=6", "out=files")
    for row, column, number in ((0, 0, 0), (1, 0, 1), (0, 2, 2), (1, 4, 5)):
        one = np.asarray(Image.open(tmp_path / "files" / f"{number:06d}.png"))
        tile = strip[row * 9 + 1 : row * 9 + 9, column * 9 + 1 : column * 9 + 9]
        assert np.abs(tile.astype(int) - one).max() <= 1  # made in other company


def test_a_grid_of_codes_has_a_row_for_each_value(call, run, tmp_path):
    options = {"z_dim": 8, "image_shape": [1, 8, 8], "width": 4, "codes": {"kind": 3, "tilt": [-1.0, 1.0]}}
    kind = {"_target_": "gantry.models.networks.structured.Generator"}
    save_generator(run / "generator" / "best", structured.Generator(**options), kind | options, 7)
    code, said = call("run=latest", "codes=6", "out=codes.png")
    assert code == 0, said
    assert said == "rows: 3 of kind, 4 of tilt\ncodes.png\n"
    assert Image.open(tmp_path / "codes.png").size == (6 * (6 * 9 + 1), 6 * (7 * 9 + 1))


def test_the_middle_of_a_plane_is_the_seeds_first_image(call, tmp_path):
    code, said = call("run=latest", "latent_grid=5", "directions=[2,0]", "out=plane.png", "seed=4")
    assert code == 0, said
    call("run=latest", "n=1", "out=files", "seed=4")
    plane = np.asarray(Image.open(tmp_path / "plane.png"))[::6, ::6, 0].astype(int)
    one = np.asarray(Image.open(tmp_path / "files" / "000000.png"))
    assert np.abs(plane[2 * 9 + 1 : 2 * 9 + 9, 2 * 9 + 1 : 2 * 9 + 9] - one).max() <= 1
    assert np.abs(plane[1:9, 1:9] - one).max() > 1


def test_a_damaged_image_is_filled_in_and_kept_elsewhere(call, tmp_path):
    call("run=latest", "n=9", "out=files")
    mask = np.zeros((8, 8), np.uint8)
    mask[2:5, 2:5] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    code, said = call("run=latest", "project=files/000005.png", "mask=mask.png", "out=repaired.png")
    assert code == 0, said
    assert "filled in: " in said
    picture = np.asarray(Image.open(tmp_path / "repaired.png"))[::6, ::6, 0]
    given, hidden, nearest, repaired = (picture[1:9, column * 9 + 1 : column * 9 + 9] for column in range(4))
    assert np.array_equal(given, np.asarray(Image.open(tmp_path / "files" / "000005.png")))
    assert (hidden[mask > 0] == 128).all()
    assert np.array_equal(hidden[mask == 0], given[mask == 0])
    assert np.array_equal(repaired[mask == 0], given[mask == 0])
    assert np.array_equal(repaired[mask > 0], nearest[mask > 0])
    assert np.load(tmp_path / "repaired.npy").shape == (1, 6)


def test_a_folder_is_projected_as_its_images_are(call, tmp_path):
    (tmp_path / "photos" / "old").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (31, 50, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "photos" / "colour.png")
    Image.fromarray(noise[:8, :8, 0]).save(tmp_path / "photos" / "old" / "grey.jpg")
    code, said = call("run=latest", "project=photos", "out=both.png")
    assert code == 0, said
    assert "score" not in said
    both = np.asarray(Image.open(tmp_path / "both.png"))[::6, ::6, 0]
    assert np.array_equal(both[1:9, 1:9], decode(tmp_path / "photos" / "colour.png", 8, 1)[0])
    assert np.array_equal(both[10:18, 1:9], decode(tmp_path / "photos" / "old" / "grey.jpg", 8, 1)[0])
    (tmp_path / "photos" / "notes.png").write_text("all of it")
    code, said = call("run=latest", "project=photos", "out=both.png")
    assert code == 2
    assert "photos/notes.png is no image that can be read" in said


@pytest.mark.parametrize("out", ["files.png", "mask.png"])
def test_what_is_projected_is_not_written_over(call, tmp_path, out):
    """The latents go beside the picture, under its name as .npy."""
    np.save(tmp_path / "files.npy", np.zeros((1, 8, 8), np.uint8))
    Image.fromarray(np.diag([255] * 8).astype(np.uint8)).save(tmp_path / "mask.png")
    before = {path: path.read_bytes() for path in tmp_path.glob("*.*")}
    code, said = call("run=latest", "project=files.npy", "mask=mask.png", f"out={out}")
    assert code == 2
    assert "would write over " in said
    assert before == {path: path.read_bytes() for path in tmp_path.glob("*.*")}


@pytest.mark.parametrize(("grey", "said"), [(0, "is nowhere white"), (255, "is white all over")])
def test_a_mask_of_nothing_or_everything_is_refused_by_its_name(call, tmp_path, grey, said):
    for name, level in (("image.png", 90), ("mask.png", grey)):
        Image.fromarray(np.full((20, 20), level, np.uint8)).save(tmp_path / name)
    code, text = call("run=latest", "project=image.png", "mask=mask.png")
    assert code == 2
    assert f"mask=mask.png {said}" in text


def test_a_mask_of_other_proportions_is_refused(call, tmp_path):
    Image.fromarray(np.zeros((8, 16), np.uint8)).save(tmp_path / "given.png")
    Image.fromarray(np.eye(9, dtype=np.uint8) * 255).save(tmp_path / "mask.png")
    code, said = call("run=latest", "project=given.png", "mask=mask.png")
    assert code == 2
    assert "mask=mask.png is 9x9 pixels, given.png 16x8" in said


def test_a_mask_goes_by_the_picture_as_it_is_seen(call, tmp_path):
    """A camera stores the picture lying, and its EXIF says that it is to be turned."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((8, 16), np.uint8)).save(tmp_path / "given.jpg", exif=exif)
    Image.fromarray(np.eye(16, 8, dtype=np.uint8) * 255).save(tmp_path / "mask.png")
    assert call("run=latest", "project=given.jpg", "mask=mask.png")[0] == 0


def test_a_picture_that_is_none_is_refused(call, tmp_path):
    (tmp_path / "notes.png").write_text("all of it")
    code, said = call("run=latest", "project=notes.png")
    assert code == 2
    assert "project=notes.png is no image that can be read" in said


@pytest.mark.parametrize("out", ["grid.png", "walk.gif", "walk.webp", "walk.mp4", "walk.png", "plane.png"])
def test_a_picture_that_the_disk_does_not_take_is_an_error_and_leaves_nothing(call, tmp_path, out):
    if out == "walk.mp4":
        pytest.importorskip("av")
    more = {"walk": ["interpolate=2", "frames=2"], "plane": ["latent_grid=8"]}.get(out.partition(".")[0], [])
    (tmp_path / "here").mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60, before[1]))  # stands for the full disk
    try:
        code, said = call("run=latest", *more, f"out=here/{out}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (code, said.count("\n")) == (2, 1), said
    assert f"out={tmp_path / 'here' / out} cannot be written: File too large" in said
    assert not list((tmp_path / "here").iterdir())
