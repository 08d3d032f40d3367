"""Which files are of which class: what dataset.json says, and which sub-folders are classes and which are not."""

import json

import numpy as np
import pytest
from PIL import Image

from gantry.core.errors import UserError
from gantry.data.image_folder import image_folder
from gantry.data.labels import of_folders
from gantry.data.sample_files import samples


def tree(base, names):
    """Image files of these names, each of its own grey level."""
    for level, name in enumerate(names):
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), level).save(base / name)
    return base


def load(base, **options):
    return image_folder(folder=str(base), cache=base.parent / "cache", image_size=8, **options)


def each(folders, files):
    return [f"{folder}/{file}" for folder in folders for file in files]


FOUR = [f"{i}.png" for i in range(4)]
NO_CLASSES = {
    "StyleGAN": ([f"{i // 1000:05d}/img{i:08d}.png" for i in range(0, 3000, 250)], "numbered buckets"),
    "small buckets": ([f"{i // 20:05d}/img{i:08d}.png" for i in range(60)], "numbered buckets"),
    "FFHQ": ([f"{i // 1000 * 1000:05d}/{i:05d}.png" for i in range(0, 3000, 250)], "numbered buckets"),
    "img2dataset": ([f"{i // 4:05d}/{i // 4:05d}{i % 4:04d}.jpg" for i in range(12)], "numbered buckets"),
    "files counted from 1": ([f"{(i - 1) // 100}/{i}.png" for i in range(1, 300, 9)], "numbered buckets"),
    "full but the last": ([*each(("0000", "0001", "0002"), FOUR), "0003/0.png"], "numbered buckets"),
    "hashes": ([f"{i:x}{i}/{i:x}{i}0a1b2c3d4e5f.png" for i in range(9)], "the beginnings of files' names"),
    "one image each": ([f"chair{i}x/photo.png" for i in range(12)], "folders of one image each"),
    "splits": (each(("train", "val", "test"), FOUR), "the parts of a data set"),
    "COCO": (each(("train2017", "val2017", "test2017"), FOUR), "the parts of a data set"),
    "CycleGAN": (each(("trainA", "trainB", "testA", "testB"), FOUR), "the parts of a data set"),
    "sets": (each(("Training_Set", "Test Set"), FOUR), "the parts of a data set"),
    "splits and another": (each(("train", "test", "extra"), FOUR), "the parts of a data set"),
    "days": (each(("2019-05-01", "2019-05-02"), FOUR), "dates"),
    "days in a word": (each(("20190501", "20190502 at the sea"), FOUR), "dates"),
    "days, European": (each(("01.05.2019", "31.12.2020"), FOUR), "dates"),
    "years": (each(("2019", "2020"), FOUR), "dates"),
    "months": (each(("201905", "201906"), FOUR), "dates"),
    "names of months": (each(("01-January", "02-February"), FOUR), "dates"),
    "a camera's": (each(("100CANON", "101CANON"), FOUR), "folders of a camera"),
    "cameras": (each(("cam0", "cam1"), FOUR), "numbered pieces of a collection"),
    "batches": (each(("batch_1", "batch_2"), FOUR), "numbered pieces of a collection"),
    "ChestX-ray": (each(("images_001/images", "images_002/images"), FOUR), "numbered pieces of a collection"),
    "a file manager's": (each(("New folder", "New folder (2)"), FOUR), "numbered pieces of a collection"),
    "masks": (each(("images", "masks"), FOUR), "kinds of files"),
    "VOC": (each(("JPEGImages", "SegmentationClass", "SegmentationObject"), FOUR), "kinds of files"),
    "Cityscapes": (each(("gtFine/train/ulm", "leftImg8bit/train/ulm"), FOUR), "kinds of files"),
    "CelebAMask-HQ": (each(("CelebA-HQ-img", "CelebAMask-HQ-mask-anno/0"), FOUR), "kinds of files"),
    "versions": (each(("HR", "LR"), FOUR), "kinds of files"),
    "MetFaces": (each(("images", "unprocessed"), FOUR), "kinds of files"),
    "powers of two": (each(("64", "128", "256"), FOUR), "sizes of images"),
    "Danbooru": ([f"0{i % 3:03d}/{1000 * i + i % 3}.jpg" for i in range(1, 13)], "numbered buckets"),
    "patients": (each(("patient001", "patient002"), FOUR), "numbered pieces of a collection"),
    "named splits": (each(("seg_train/seg_train", "seg_test/seg_test", "seg_pred"), FOUR), "the parts of a data set"),
    "sizes": (each(("64x64", "images1024x1024"), FOUR), "sizes of images"),
    "single things": (each(("0f8fad5b-d9cb-469f-a165-70867728950e", "deadbeefdeadbeef"), FOUR), "names of single"),
}
CLASSES = {
    "words": (each(("cat", "dog"), FOUR), ["cat", "dog"]),
    "few images": (["cat/0.png", "cat/1.png", "cat/2.png", "dog/0.png", "elk/0.png"], ["cat", "dog", "elk"]),
    "MNIST": ([f"{label}/{i}.png" for i, label in enumerate([5, 0, 4, 1, 5, 0, 4, 1])], ["0", "1", "4", "5"]),
    "GTSRB": ([f"{c:05d}/{i // 3:05d}_{i:05d}.png" for c in range(3) for i in range(9)], ["00000", "00001", "00002"]),
    "numbers, equally many": (each(("0", "1", "2"), FOUR), ["0", "1", "2"]),
    "ImageNet": (each(("n01440764", "n02102040"), FOUR), ["n01440764", "n02102040"]),
    "ShapeNet": (each(("02691156", "02958343"), FOUR), ["02691156", "02958343"]),
    "letters": ([f"{c}/{c}{i}.png" for c in "AB" for i in range(4)], ["A", "B"]),
    "vehicles": (each(("bus", "car", "train"), FOUR), ["bus", "car", "train"]),
    "a face with a mask": (each(("mask", "no_mask"), FOUR), ["mask", "no_mask"]),
    "birds": (each(("001.Black_footed_Albatross", "002.Laysan_Albatross"), FOUR), None),
    "numbered classes": ([f"class{i // 4}/{i}.png" for i in range(8)], ["class0", "class1"]),
    "one folder around": (each(("pets/cat", "pets/dog"), FOUR), ["cat", "dog"]),
    "people by number": (each(("0000001", "0000002"), [f"{i:03d}.jpg" for i in range(4)]), ["0000001", "0000002"]),
    "vehicles in a test": (each(("plane", "train", "test_tube"), FOUR), ["plane", "test_tube", "train"]),
    "splits of which one lacks a class": (each(("train/cat", "train/dog", "test/cat"), FOUR), ["cat", "dog"]),
    "splits nested twice": (
        each([f"{part}/{part}/{name}" for part in ("train", "test") for name in ("cat", "dog")], FOUR),
        ["cat", "dog"],
    ),
    "splits with a folder in each class": (
        each([f"{part}/{name}/images" for part in ("train", "val") for name in ("n01440764", "n02102040")], FOUR),
        ["n01440764", "n02102040"],
    ),
    "splits of classes": (each(("train/cat", "train/dog", "test/cat", "test/dog"), FOUR), ["cat", "dog"]),
}


@pytest.mark.parametrize("case", NO_CLASSES)
def test_folders_that_are_no_classes_give_no_labels_and_say_why(case):
    names, what = NO_CLASSES[case]
    found = of_folders(sorted(names))
    assert found.values is None
    assert found.classes is None
    assert what in found.origin
    assert "data.labels=folders" in found.origin


@pytest.mark.parametrize("case", CLASSES)
def test_folders_that_are_classes_give_the_labels(case):
    names, classes = CLASSES[case]
    found = of_folders(sorted(names))
    assert found.classes == (classes or sorted({name.split("/")[0] for name in names}))
    assert all(found.classes[label] in name for label, name in zip(found.values, sorted(names), strict=True))


def test_parts_of_a_data_set_taken_together_are_warned_of():
    assert "data.folder=.../train takes one" in of_folders(each(("test", "train"), FOUR)).warning
    assert "train takes one" in of_folders(each(("train/cat", "train/dog", "test/cat", "test/dog"), FOUR)).warning
    assert of_folders(each(("cat", "dog"), FOUR)).warning is None


def test_a_part_without_classes_leaves_no_labels_rather_than_a_class_of_its_folder():
    """Tiny ImageNet's test and validation images lie in a folder called images."""
    names = each(("train/n01440764/images", "train/n02102040/images", "val/images", "test/images"), FOUR)
    found = of_folders(sorted(names))
    assert found.values is None
    assert "test has none" in found.origin
    assert "train takes one" in found.warning


@pytest.mark.parametrize("classes", [("rose", "tulip"), ("test/rose", "test/tulip", "train/rose", "train/tulip")])
def test_a_data_set_that_is_packed_twice_has_no_class_of_its_copy(classes):
    names = sorted(each([*classes, *(f"flowers/{name}" for name in classes)], FOUR))
    for found in (of_folders(names), of_folders([f"flowers/{name}" for name in names])):
        assert found.classes == ["rose", "tulip"]
        assert all(found.classes[label] in name for label, name in zip(found.values, names, strict=True))
        assert "its sub-folder flowers has the same sub-folders again" in found.warning


@pytest.mark.parametrize(
    ("folders", "wanted"),
    [
        (("annotations", "images"), "images"),
        (("JPEGImages", "SegmentationClass"), "JPEGImages"),
        (("B", "train"), None),
    ],
)
def test_the_folder_of_pictures_is_the_one_that_is_named(folders, wanted):
    warning = of_folders(each(folders, FOUR)).warning
    assert warning is None if wanted is None else f"data.folder=.../{wanted} takes one" in warning


@pytest.mark.parametrize(
    ("names", "count"),
    [
        ([f"{i}{end}" for i in range(4) for end in (".jpg", "_mask.png")], 4),
        (["benign (1).png", "benign (1)_mask.png", "benign (1)_mask_1.png", "benign (2).png"], 2),
        (["a/0.png", "a/0-GT.png", "b/0.png", "b/1_label.png"], 1),
        (["with_mask.png", "0_masked.png", "0.png", "mask.png", "mask_1.png"], 0),
    ],
)
def test_masks_beside_their_pictures_are_warned_of(tmp_path, names, count):
    warning = load(tree(tmp_path / "data", sorted(names))).reading.warning
    assert warning is None if not count else warning.startswith(f"{count} of {len(names)} images are named as masks")


def test_images_outside_the_sub_folders_are_counted():
    assert of_folders([*each(("cat", "dog"), FOUR), "x.png"]).origin == (
        "no labels: 1 of 9 images lie outside the sub-folders"
    )


def test_the_option_insists_on_folders_or_turns_them_off(tmp_path):
    base = tree(tmp_path / "data", each(("train", "test"), FOUR))
    assert load(base).labels is None
    assert load(base, labels="folders").classes == ("test", "train")
    base = tree(tmp_path / "pets", each(("cat", "dog"), FOUR))
    assert load(base).classes == ("cat", "dog")
    none = load(base, labels="none")
    assert (none.labels, none.classes) == (None, None)
    assert none.digest != load(base).digest
    assert len(list((tmp_path / "cache/images").glob("*.npy"))) == 2  # other labels of the same pixels
    with pytest.raises(UserError, match=r"data\.labels=folders: .* all images lie in one folder"):
        load(tree(tmp_path / "flat", FOUR), labels="folders")


BUCKETS = [f"0000{i // 4}/img{i:08d}.png" for i in range(12)]


def told(base, labels):
    (base / "dataset.json").write_text(json.dumps({"labels": labels}))
    return load(base)


@pytest.mark.parametrize(
    "labels",
    [
        [[name, i % 2] for i, name in enumerate(BUCKETS)],
        {name: float(i % 2) for i, name in enumerate(BUCKETS)},
        [[name.replace("/", "\\"), i % 2] for i, name in enumerate(reversed(BUCKETS), start=1)],
        [[f"./{name}", [1 - i % 2, i % 2]] for i, name in enumerate(BUCKETS)],
        [*([name, [i % 2]] for i, name in enumerate(BUCKETS)), ["gone.png", 7]],
    ],
    ids=["pairs", "a mapping", "in Windows' paths, backwards", "one-hot", "and of a file that is gone"],
)
def test_dataset_json_gives_the_labels(tmp_path, labels):
    data = told(tree(tmp_path / "data", BUCKETS), labels)
    assert data.labels.tolist() == [0, 1] * 6
    assert data.labels.dtype == np.int64
    assert data.classes == ("0", "1")
    assert data.reading.labels == "by dataset.json"


def test_dataset_json_may_name_classes_or_number_them_with_gaps(tmp_path):
    base = tree(tmp_path / "data", BUCKETS)
    assert told(base, [[name, "cat" if i % 2 else "dog"] for i, name in enumerate(BUCKETS)]).classes == ("cat", "dog")
    gaps = told(base, [[name, [10, 2, 7][i % 3]] for i, name in enumerate(BUCKETS)])
    assert gaps.classes == ("2", "7", "10")
    assert gaps.labels.tolist() == [2, 0, 1] * 4


def test_dataset_json_without_labels_is_believed(tmp_path):
    data = told(tree(tmp_path / "data", each(("cat", "dog"), FOUR)), None)
    assert (data.labels, data.classes) == (None, None)
    assert data.reading.labels == "no labels: dataset.json has none"


def test_vectors_are_left_out_by_name(tmp_path):
    data = told(tree(tmp_path / "data", BUCKETS), [[name, [0.5, 1.0, -2.0]] for name in BUCKETS])
    assert data.labels is None
    assert (
        data.reading.labels
        == "no labels: dataset.json holds lists of 3 numbers, which are no classes, and are left out"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            json.dumps({"labels": [[name, 0] for name in BUCKETS[1:]]}),
            f"no label for 1 of 12 images, such as {BUCKETS[0]}",
        ),
        ('{"labels": [["a.png", 1]', "cannot be read"),
        ('{"labels": [1, 2]}', "file name, label"),
        ('{"labels": 3}', "file name, label"),
    ],
)
def test_a_dataset_json_that_cannot_be_right_is_refused_with_a_way_out(tmp_path, text, said):
    base = tree(tmp_path / "data", BUCKETS)
    (base / "dataset.json").write_text(text)
    with pytest.raises(UserError, match=said) as refused:
        load(base)
    assert not list((tmp_path / "cache/images").glob("*.npy"))  # before anything is decoded
    assert "data.labels=folders or none" in str(refused.value)
    assert load(base, labels="none").labels is None
    assert load(base, labels="folders").classes == ("00000", "00001", "00002")


@pytest.mark.parametrize("labels", [[], None])
def test_empty_labels_are_none(tmp_path, labels):
    assert told(tree(tmp_path / "data", BUCKETS), labels).labels is None


def test_dataset_json_in_a_folder_around_all_files_counts_and_one_of_a_part_does_not(tmp_path):
    labels = json.dumps({"labels": [[name, i % 2] for i, name in enumerate(BUCKETS)]})
    base = tree(tmp_path / "data", [f"stylegan/{name}" for name in BUCKETS])
    (base / "stylegan/dataset.json").write_text(labels)
    assert load(base).labels.tolist() == [0, 1] * 6
    base = tree(tmp_path / "pets", [*(f"cat/{name}" for name in BUCKETS), *each(("dog",), FOUR)])
    (base / "cat/dataset.json").write_text(labels)
    assert load(base).classes == ("cat", "dog")


def test_another_file_of_that_name_is_left_alone(tmp_path):
    base = tree(tmp_path / "data", each(("cat", "dog"), FOUR))
    (base / "dataset.json").write_text('{"images": [], "annotations": []}')
    assert load(base).classes == ("cat", "dog")


def test_labels_that_change_beside_the_same_pictures_are_seen(tmp_path):
    base = tree(tmp_path / "data", BUCKETS)
    first = told(base, [[name, i % 2] for i, name in enumerate(BUCKETS)])
    second = told(base, [[name, i % 3] for i, name in enumerate(BUCKETS)])
    assert second.classes == ("0", "1", "2")
    assert first.digest != second.digest


def test_a_file_that_cannot_be_read_takes_its_label_along(tmp_path):
    base = tree(tmp_path / "data", BUCKETS)
    (base / BUCKETS[1]).write_bytes(b"x")
    (base / "dataset.json").write_text(json.dumps({"labels": [[name, i % 3] for i, name in enumerate(BUCKETS)]}))
    data = load(base, skip_unreadable=True)
    assert data.labels.tolist() == [0, 2, *[0, 1, 2] * 3]
    assert data.images[:, 0, 0, 0].tolist() == [0, *range(2, 12)]


def test_samples_are_labelled_in_the_same_way(tmp_path):
    base = tree(tmp_path / "data", BUCKETS)
    assert samples(base, tmp_path / "cache", (3, 8, 8)).labels is None
    (base / "dataset.json").write_text(json.dumps({"labels": [[name, i % 2] for i, name in enumerate(BUCKETS)]}))
    assert samples(base, tmp_path / "cache", (3, 8, 8)).labels.tolist() == [0, 1] * 6
