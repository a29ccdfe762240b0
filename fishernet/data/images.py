"""The images of one sweep in memory."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class ImageData:
    """Images, uint8 (n_images, channels, height, width), in memory; labels, int64 (n_images,), or None.

    ``name`` is the dataset's name or the path as given. ``fingerprint`` is the start of a sha256 over shapes
    and bytes of all that was read, before ``train_size``, ``validation_size`` and ``stopping_size`` cut it: with equal ones
    two sweeps saw the same data. ``held_out`` says what ``test`` holds, "test" or "validation". ``stopping`` are the images
    that early stopping goes by, if any. ``remarks``
    say what was converted or left out on the way, and where labels come from: phrases for the user.
    """

    name: str
    train: torch.Tensor
    test: torch.Tensor
    train_labels: torch.Tensor | None
    test_labels: torch.Tensor | None
    fingerprint: str
    held_out: str
    remarks: tuple[str, ...] = ()
    stopping: torch.Tensor | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.train.shape[1:]
        return channels, height, width

    def __str__(self) -> str:
        """``60000 to train, 10000 for test, 28x28 grey``, and the remarks."""
        channels, height, width = self.image_shape
        counts = f"{len(self.train)} to train, {len(self.test)} for {self.held_out}"
        if self.stopping is not None:
            counts += f", {len(self.stopping)} to stop by"
        return "; ".join([f"{counts}, {height}x{width} {'grey' if channels == 1 else 'colour'}", *self.remarks])
