"""``load_data``: the images of a name or a path, whole or cut to what trains and what is held out."""

import importlib
import importlib.util
import os
from collections.abc import Callable
from numbers import Integral
from pathlib import Path

import numpy as np
import torch

from fishernet.config import TrialConfig, typed
from fishernet.data import DATA_DIR_VARIABLE, DATASETS, DataError, unknown_dataset, usual_fit
from fishernet.data.binarised import black_and_white, drawn_once, thresholded
from fishernet.data.files import Array, Parts, fingerprint, load_arrays
from fishernet.data.fitting import Fit
from fishernet.data.folders import IMAGE_SUFFIXES, load_folder
from fishernet.data.idx import load_idx
from fishernet.data.images import ImageData, at_equal_steps

LEAST_WHITE = 26  # of 255: images whose brightest pixel is darker were scaled as if white were something else
PACKAGES = {
    "sklearn": "scikit-learn",
    "PIL": "pillow",
    "scipy": "scipy",
    "torchvision": "torchvision",
}  # by the module's name, what only some data are read with


# Zeros, of each other digit, and both of those to hold out.
REVERSED: dict[str, tuple[int, int, tuple[int, int] | None]] = {
    "reversed-mnist": (5800, 100, None),
    "reversed-mnist-released": (5000, 100, (800, 50)),
}


def load_data(
    dataset: str | os.PathLike[str], data_dir: str | os.PathLike[str] | None = None, *, train_size: int = 0,
    validation_size: int = 0, stopping_size: int = 0, crop: int = -1, image_size: int = -1, binarisation: str = "none",
    download: bool = True,
) -> ImageData:  # fmt: skip
    """The images of a built-in dataset (a name in DATASETS) or of a path.

    fashion-mnist and mnist are read from data_dir, else $FISHERNET_DATA_DIR, else ~/.cache/fishernet,
    extracted or .gz; only when none of their files is there are they downloaded. A path is one of

    * an .npz file with arrays ``train`` and ``test`` (and ``train_labels``, ``test_labels``);
    * an .npz file with ``images`` (and ``labels``), or an .npy file: the last sixth (rounded down, at least
      one) is the test set, so shuffle what is sorted;
    * a folder of images, with subfolders train and test, or without: again the last sixth is the test set.
      Folders below that are classes, if two or more.

    ``files`` says which arrays are images, ``folders`` which files, and how they are read.

    ``validation_size`` images from the end of the training set replace the test set, so that model selection never
    sees it; the ``stopping_size`` images before them are ``stopping``; ``train_size`` then keeps the first of what remains
    (0: all), of reversed MNIST images at equal steps, as it begins with what is rare in it. ``crop`` keeps the central
    pixels of each image, ``image_size`` resizes them (``fitting.Fit``); -1 is the data set's usual, 0 leaves a step out.
    ``binarisation`` makes them black and white: ``binarised`` says how; with dynamic, training images stay grey here. Raises
    DataError.
    """
    if not isinstance(dataset, str | os.PathLike):
        raise DataError(
            f"dataset is the name of a data set or a path; got {type(dataset).__name__}. A sweep in Python takes an array "
            "as its images; elsewhere save it: numpy.save('images.npy', images)."
        )
    if not isinstance(data_dir, str | os.PathLike | None):
        raise DataError(f"data_dir is the folder where the data sets are; got {data_dir!r}.")
    dataset = os.fspath(dataset)
    _check(train_size=train_size, validation_size=validation_size, stopping_size=stopping_size, crop=crop,
           image_size=image_size, binarisation=binarisation)  # fmt: skip
    try:
        parts = _load(dataset, data_dir, Fit(*usual_fit(dataset, crop, image_size)), download)
    except ModuleNotFoundError as error:
        package = PACKAGES.get(str(error.name).partition(".")[0])
        if not package:
            raise
        raise DataError(
            f"{dataset} is read with {package}, which is not installed here: pip install {package}."
        ) from None
    train, test, train_labels, test_labels, remarks, n_own, _ = parts
    if train.shape[1:] != test.shape[1:]:
        raise DataError(
            f"{dataset}: training and test images must have one shape (channels, height, width); "
            f"got {train.shape[1:]} and {test.shape[1:]}. Resize one of them."
        )
    if len(train) < 2:
        raise DataError(f"{dataset}: training needs 2 images or more; got {len(train)} beside the test set.")
    if not 0 <= validation_size < len(train):
        raise DataError(
            f"validation_size is how many of the {len(train)} training images of {dataset} are held out; "
            f"got {validation_size}. Give at least 0 and less than {len(train)}."
        )
    n_left = len(train) - validation_size - stopping_size
    if n_left < n_own:
        raise DataError(
            f"{dataset} has {len(train) - n_own} images beside those to train on and to test; got validation_size "
            f"{validation_size} and stopping_size {stopping_size}. Hold out no more than there are."
        )
    if n_left < 1:
        raise DataError(
            f"stopping_size is how many of the {len(train)} training images of {dataset} early stopping goes by; got "
            f"{stopping_size} with validation_size {validation_size}. Leave at least 1 to train on."
        )
    n_left = n_own or n_left
    if not 0 <= train_size <= n_left:
        raise DataError(
            f"train_size is how many images to train on (0: all), and {dataset} has {n_left} of them "
            f"with validation_size {validation_size} and stopping_size {stopping_size}; got {train_size}. "
            f"Give at most {n_left}."
        )
    known = parts.fingerprint or fingerprint(parts)
    stopping, first = (
        train[len(train) - validation_size - stopping_size :][:stopping_size],
        len(train) - validation_size,
    )
    if validation_size:
        test, test_labels = train[first:], None if train_labels is None else train_labels[first:]
    n_train = train_size or n_left
    kept = at_equal_steps(n_train, n_left) if n_own else slice(n_train)
    if binarisation == "static" and not (black_and_white(train) and black_and_white(test)):
        raise DataError(
            f"binarisation static is of images that come in black and white, such as Larochelle and Murray's fixed draw of "
            f"MNIST; {dataset} has grey ones. Give a file of such images as dataset (.npz with train and test), or draw them: "
            "once, or dynamic."
        )
    train, held_out = train[kept], "validation" if validation_size else "test"
    if binarisation not in ("none", "static"):
        sets = {held_out: test, **({"stopping": stopping} if stopping_size else {})}
        sets |= {} if binarisation == "dynamic" else {"train": train}
        threshold = binarisation == "threshold"
        made = {name: thresholded(x) for name, x in sets.items()} if threshold else drawn_once(dataset, sets)
        train, test, stopping = made.get("train", train), made[held_out], made.get("stopping", stopping)
    return ImageData(
        dataset,
        _tensor(train),
        _tensor(test),
        None if train_labels is None else _tensor(train_labels[kept]),
        None if test_labels is None else _tensor(test_labels),
        known,
        held_out,
        remarks,
        _tensor(stopping) if stopping_size else None,
    )


def _check(**given: object) -> None:
    """Raises DataError where one cannot be the config's field of its name; no number is made of text here.

    How many images may be cut off, ``load_data`` says when it has counted them.
    """
    for name, value in given.items():
        field = TrialConfig.__dataclass_fields__[name]
        if field.type is int and (isinstance(value, bool) or not isinstance(value, Integral)):
            raise DataError(f"{name} ({field.metadata['meaning']}) must be a whole number; got {value!r}.")
        if name not in ("train_size", "validation_size"):
            try:
                typed(field, value)
            except ValueError as error:
                raise DataError(f"{error}{'' if str(error).endswith('?') else '.'}") from None


def images_of(config: TrialConfig, data_dir: str | os.PathLike[str] | None = None) -> ImageData:
    """The images that a config is trained and scored on; raises as ``load_data`` does."""
    return load_data(data_dir=data_dir, **config.data)


def _load(dataset: str, data_dir: str | os.PathLike[str] | None, fit: Fit, download: bool) -> Parts:
    if dataset not in DATASETS:
        return _load_path(dataset, fit)
    # os.path, as pathlib raises for a ~user that does not exist
    folder = Path(os.path.expanduser(data_dir or os.environ.get(DATA_DIR_VARIABLE) or "~/.cache/fishernet"))  # noqa: PTH111
    row = DATASETS[dataset]
    module, _, function = row.reader.partition(":")
    read: Callable[..., Parts] = getattr(importlib.import_module(module), function)
    if row.fits:
        parts = read(dataset, folder, fit, download)
    else:
        parts = read(dataset, folder, download)
        parts = parts._replace(train=fit.array(parts.train, dataset), test=fit.array(parts.test, dataset))
    if os.path.exists(dataset):  # noqa: PTH110
        return parts._replace(
            remarks=(*parts.remarks, f"{dataset} in this folder is not read: its path is ./{dataset}")
        )
    return parts


def _load_path(dataset: str, fit: Fit) -> Parts:
    """The images of a folder, an .npz or an .npy file, each made to ``fit``; raises DataError."""
    # os.path says no where pathlib raises: for a ~user that does not exist, for a name that is too long
    path = os.path.expanduser(dataset)  # noqa: PTH111
    if os.path.isdir(path):  # noqa: PTH112
        parts = load_folder(Path(path), fit)
    elif os.path.isfile(path) and path.lower().endswith((".npz", ".npy")):  # noqa: PTH113
        parts = load_arrays(Path(path))
        parts = parts._replace(train=fit.array(parts.train, path), test=fit.array(parts.test, path))
    elif os.path.isfile(path) and path.lower().endswith(IMAGE_SUFFIXES):  # noqa: PTH113
        raise DataError(
            f"{path} is one image, and a data set is a folder of them, an .npz or an .npy file. Name its folder. A trained "
            "model takes the file as it is: model.encode(path)."
        )
    else:
        raise unknown_dataset(dataset)
    brightest = max(int(parts.train.max()), int(parts.test.max(initial=0)))
    if brightest < LEAST_WHITE:
        raise DataError(
            f"{path}: the brightest pixel of all images is {brightest} of 255, below a tenth of white, so that hardly any "
            "contrast is left. Scale them so that white is 255, or 1.0 as floats: if they are counts up to 16, divide by 16."
        )
    return parts


def _tensor(array: Array) -> torch.Tensor:
    """A copy: the array may be read-only, transposed, or a part that would keep the whole in memory. What is mapped stays so."""
    if isinstance(array, np.memmap) and array.flags.c_contiguous:
        return torch.from_numpy(array)
    return torch.from_numpy(np.array(array, order="C"))


def load_digits(_dataset: str, _data_dir: Path, _download: bool) -> Parts:
    """scikit-learn's 8x8 digits, which come with the package; the last 360 of 1797 are the test set."""
    found = importlib.util.find_spec("sklearn")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("scikit-learn is not installed", name="sklearn")
    # Its file, as its module takes seconds to import: columns are 64 grey values from 0 to 16, and the digit.
    path = Path(found.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    if not path.exists():
        raise DataError(f"digits: {path} is missing in the installed scikit-learn; install it again.")
    table = np.loadtxt(path, delimiter=",")
    images = np.rint(table[:, :-1].reshape(-1, 1, 8, 8) * 255 / 16).astype(np.uint8)
    labels = table[:, -1].astype(np.int64)
    return Parts(images[:-360], images[-360:], labels[:-360], labels[-360:])


def load_reversed_mnist(dataset: str, folder: Path, download: bool) -> Parts:
    """MNIST with many zeros and few of each other digit to train on; of what is left so many, or all, to hold out.

    The first of each class among the 60,000, in the order of the file. Zheng et al. 2019, section 5.2, takes 5,800 zeros and 100
    of each other digit; its code 5,000, 100, and for validation the next 800 and 50.
    """
    n_zeros, n_others, held = REVERSED[dataset]
    mnist = load_idx("mnist", folder, download)
    assert mnist.train_labels is not None
    own, rest = [], []
    for digit in range(10):
        places = np.flatnonzero(mnist.train_labels == digit)
        n = n_others if digit else n_zeros
        own.append(places[:n])
        rest.append(places[n:] if held is None else places[n : n + held[min(digit, 1)]])
    first, others = np.sort(np.concatenate(own)), np.sort(np.concatenate(rest))
    index = np.concatenate([first, others])
    return mnist._replace(train=mnist.train[index], train_labels=mnist.train_labels[index], n_train=len(first))
