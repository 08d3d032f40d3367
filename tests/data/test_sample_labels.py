"""The labels beside images of others: in which forms they are understood, and what is left out."""

import numpy as np
import pytest
from sample_arrays import COLOUR, LABELS, NCHW, PIXELS, RANDOM, load, saved

from gantry.core.errors import UserError
from gantry.data.sample_files import samples


@pytest.mark.parametrize("key", ["arr_1", "labels", "y"])
@pytest.mark.parametrize("labels", [LABELS, LABELS.astype(np.uint8)[:, None], LABELS.astype(">i4")])
def test_labels_beside_the_images_are_numbered_classes(tmp_path, key, labels):
    data = load(saved(tmp_path, arr_0=PIXELS, **{key: labels}))
    assert data.labels.tolist() == LABELS.tolist()
    assert data.labels.dtype == np.int64
    assert data.classes == ("0", "1", "2")


NO_LABELS = {
    "half": LABELS + 0.5,
    "nan": np.where(LABELS, LABELS, np.nan),
    "short": LABELS[:5],
    "negative": -LABELS,
    "soft": np.full((7, 4), 0.25),
    "two of": np.eye(7) + np.eye(7)[::-1],
    "latents": RANDOM.standard_normal((7, 16)),
    "large": LABELS + 10**9,
    "one": np.array(3),
    "objects": np.array([{}] * 7),
    "times": LABELS.astype("datetime64[s]"),
}


@pytest.mark.parametrize("labels", NO_LABELS.values(), ids=NO_LABELS)
def test_what_is_no_label_is_refused_or_left_alone(tmp_path, labels, caplog):
    with pytest.raises(UserError, match="7 integers from 0, 7 names, or one-hot rows"):
        load(saved(tmp_path, images=PIXELS, labels=labels))
    assert load(saved(tmp_path, arr_0=PIXELS, arr_1=labels)).labels is None  # latents, perhaps
    assert "not used" in caplog.text


@pytest.mark.parametrize("labels", NO_LABELS.values(), ids=NO_LABELS)
def test_labels_that_nothing_needs_are_left_out_with_a_warning_at_every_start(tmp_path, labels, caplog):
    path = saved(tmp_path, images=PIXELS, labels=labels)
    for _ in range(2):  # the second reads the cache
        caplog.clear()
        data = samples(path, tmp_path / "cache", COLOUR, labels_needed=False)
        assert np.array_equal(data.images, NCHW)
        assert (data.labels, data.classes) == (None, None)
        assert "one-hot rows (7, classes): it is not used" in caplog.text


@pytest.mark.parametrize(
    ("labels", "numbers", "classes"),
    [
        (LABELS.astype(np.float32), LABELS, ("0", "1", "2")),
        (LABELS.astype(float)[:, None], LABELS, ("0", "1", "2")),
        (LABELS[None], LABELS, ("0", "1", "2")),
        (np.eye(5, dtype=np.float32)[LABELS], LABELS, ("0", "1", "2", "3", "4")),
        (np.asfortranarray(np.eye(3, dtype=np.uint8)[LABELS]), LABELS, ("0", "1", "2")),
        (np.eye(3, dtype=bool)[LABELS][:, :, None, None], LABELS, ("0", "1", "2")),
        (LABELS > 0, LABELS > 0, ("0", "1")),
        (np.array(["cow", "ant", "bee"])[LABELS], [2, 0, 1, 1, 0, 2, 1], ("ant", "bee", "cow")),
        (np.array([b"cow", b"ant", b"bee"])[LABELS], [2, 0, 1, 1, 0, 2, 1], ("ant", "bee", "cow")),
        (np.array(["0", "1", "2"])[LABELS], LABELS, ("0", "1", "2")),
    ],
)
@pytest.mark.parametrize("key", ["labels", "arr_1"])
def test_labels_are_understood_in_any_usual_form(tmp_path, key, labels, numbers, classes):
    data = load(saved(tmp_path, arr_0=PIXELS, **{key: labels}))
    assert data.labels.tolist() == np.asarray(numbers).astype(int).tolist()
    assert data.classes == classes


def test_of_two_arrays_of_labels_the_one_that_can_be_understood_is_taken(tmp_path, caplog):
    data = samples(
        saved(tmp_path, images=PIXELS, labels=LABELS + 0.5, y=LABELS), tmp_path / "cache", COLOUR, labels_needed=False
    )
    assert data.labels.tolist() == LABELS.tolist()
    assert "labels (float64, (7,))" in caplog.text


def test_an_image_that_cannot_be_understood_by_its_labels_alone_is_taken(folder, tmp_path, caplog):
    (folder / "dataset.json").write_text("{")
    with pytest.raises(UserError, match=r"dataset\.json"):
        load(folder)
    data = samples(folder, tmp_path / "cache", COLOUR, labels_needed=False)
    assert (len(data), data.labels) == (7, None)
    assert "it is not used" in caplog.text
