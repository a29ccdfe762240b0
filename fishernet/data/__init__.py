"""Images to train on: which data sets there are by name. Nothing here imports torch.

``loading`` makes ``images.ImageData`` of a name, an array file or a folder.
"""

import os
import string
from dataclasses import dataclass

from fishernet.spelling import did_you_mean

DATA_DIR_VARIABLE = "FISHERNET_DATA_DIR"


@dataclass(frozen=True)
class Dataset:
    """A data set that has a name; ``classes`` are the names of its labels from 0, empty where these say themselves what they are.

    ``reader`` is the module and the function that reads it, of the name, the data folder and whether it may be downloaded;
    where it ``fits``, of name, folder, ``Fit`` and that, as it crops and resizes while it reads. ``validation_size`` is how
    many training images are usually held out for model selection, 0 where nothing is usual; ``crop`` and ``image_size`` what
    these fields usually are, 0 where the images are taken as they are.
    """

    meaning: str
    reader: str
    classes: tuple[str, ...] = ()
    validation_size: int = 0
    fits: bool = False
    crop: int = 0
    image_size: int = 0


IDX, PUBLISHED = "fishernet.data.idx:load_idx", "fishernet.data.published:load_published"
REVERSED = "fishernet.data.loading:load_reversed_mnist"
DATASETS = {
    "fashion-mnist": Dataset(
        "70,000 grey images of clothes, 28 x 28 (Xiao et al., 2017)", IDX,
        ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        10_000,
    ),
    "mnist": Dataset("70,000 grey images of digits, 28 x 28 (LeCun et al., 1998)", IDX, validation_size=10_000),
    "digits": Dataset(
        "1,797 grey images of digits, 8 x 8, which come with scikit-learn", "fishernet.data.loading:load_digits"
    ),
    "reversed-mnist": Dataset(
        "MNIST with 5,800 zeros and 100 of each other digit to train on (Zheng et al., 2019)", REVERSED
    ),
    "reversed-mnist-released": Dataset(
        "the same with 5,000 zeros, as that paper's code has it, and 1,250 to hold out", REVERSED
    ),
    "kmnist": Dataset(
        "70,000 grey images of cursive hiragana, 28 x 28 (Clanuwat et al., 2018)", PUBLISHED,
        ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
        10_000,
    ),
    "emnist-balanced": Dataset(
        "131,600 grey images of digits and letters, 28 x 28 (Cohen et al., 2017)", PUBLISHED,
        tuple(string.digits + string.ascii_uppercase + "abdefghnqrt"),
    ),
    "emnist-letters": Dataset("145,600 of these, letters alone", PUBLISHED, tuple(string.ascii_uppercase)),
    "emnist-digits": Dataset("280,000 of these, digits alone", PUBLISHED),
    "emnist-byclass": Dataset(
        "all 814,255 of these", PUBLISHED, tuple(string.digits + string.ascii_uppercase + string.ascii_lowercase)
    ),
    "emnist-bymerge": Dataset(
        "all, with the classes of emnist-balanced", PUBLISHED,
        tuple(string.digits + string.ascii_uppercase + "abdefghnqrt"),
    ),
    "cifar10": Dataset(
        "60,000 colour images of animals and vehicles, 32 x 32 (Krizhevsky, 2009)", PUBLISHED,
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    ),
    "cifar100": Dataset("60,000 colour images of 100 classes, 32 x 32 (Krizhevsky, 2009)", PUBLISHED),
    "svhn": Dataset("99,289 colour images of house numbers, 32 x 32 (Netzer et al., 2011)", PUBLISHED),
    "celeba": Dataset(
        "182,732 colour images of faces, 178 x 218, of which the central 140 x 140 pixels as 64 x 64 (Liu et al., 2015)",
        "fishernet.data.celeba:load_celeba",
        fits=True,
        crop=140,
        image_size=64,
    ),
}  # fmt: skip
# any other name is a path


STRETCH = -2  # as a crop: the whole image


def usual_fit(dataset: str, crop: int, image_size: int) -> tuple[int, int]:
    """``crop`` and ``image_size`` with the data set's usual ones in the place of -1. Raises DataError."""
    row = DATASETS.get(dataset)
    usual = (row.crop, row.image_size) if row else (0, 0)
    size = usual[1] if image_size < 0 else image_size
    if crop == STRETCH and not size:
        raise DataError(
            f"crop {STRETCH} stretches whole images to a square, whose side is image_size, and that is 0. Give one above 0."
        )
    return usual[0] if crop == -1 else crop, size


class DataError(ValueError):
    """The images cannot be used; the message says which file or flag, what was found and what to do."""


def check_dataset(dataset: str) -> None:
    """Raises DataError where it is neither a name nor a path that exists; takes no time."""
    if dataset not in DATASETS and not os.path.exists(os.path.expanduser(dataset)):  # noqa: PTH110, PTH111
        raise unknown_dataset(dataset)


def unknown_dataset(dataset: str) -> DataError:
    """What to raise where a dataset is neither a name nor a path that images can be read from."""
    found = "is another kind of file" if os.path.exists(os.path.expanduser(dataset)) else "does not exist"  # noqa: PTH110, PTH111
    return DataError(
        f"dataset {dataset} {found}; it is the path of an .npz or .npy file or of a folder of images, or one of "
        f"{', '.join(DATASETS)}{did_you_mean(dataset, DATASETS) or '.'}"
    )
