"""Images to train on: which data sets there are by name. Nothing here imports torch.

``loading`` makes ``images.ImageData`` of a name, an array file or a folder.
"""

import os
from dataclasses import dataclass

from fishernet.spelling import did_you_mean

DATA_DIR_VARIABLE = "FISHERNET_DATA_DIR"


@dataclass(frozen=True)
class Dataset:
    """A data set that has a name; ``classes`` are the names of its labels from 0, empty where these say themselves what they are.

    ``validation_size`` is how many training images are usually held out for model selection, 0 where nothing is usual.
    """

    meaning: str
    classes: tuple[str, ...] = ()
    validation_size: int = 0


DATASETS = {
    "fashion-mnist": Dataset(
        "70,000 grey images of clothes, 28 x 28 (Xiao et al., 2017)",
        ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        10_000,
    ),
    "mnist": Dataset("70,000 grey images of digits, 28 x 28 (LeCun et al., 1998)", validation_size=10_000),
    "digits": Dataset("1,797 grey images of digits, 8 x 8, which come with scikit-learn"),
    "reversed-mnist": Dataset("MNIST with 5,800 zeros and 100 of each other digit to train on (Zheng et al., 2019)"),
    "reversed-mnist-released": Dataset("the same with 5,000 zeros, as that paper's code has it, and 1,250 to hold out"),
    "svhn": Dataset("99,289 colour images of house numbers, 32 x 32 (Netzer et al., 2011)"),
    "celeba": Dataset(
        "182,732 colour images of faces, 178 x 218, usually with crop 140 and image_size 64 (Liu et al., 2015)"
    ),
}  # any other name is a path


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
        f"dataset is {', '.join(DATASETS)}, or the path of an .npz or .npy file or of a folder of images; "
        f"{dataset} {found}{did_you_mean(dataset, DATASETS) or '.'}"
    )
