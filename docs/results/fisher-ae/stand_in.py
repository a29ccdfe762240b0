"""Sixty drawn faces in CelebA's layout, to try its path without its files: ``python stand_in.py FOLDER``.

FOLDER then holds celeba/img_align_celeba/*.jpg of 178 x 218 and celeba/list_eval_partition.txt: 40 to train, 8 for
validation, 12 to test.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

N = {0: 40, 1: 8, 2: 12}  # part of the partition file -> images


def face(random: np.random.Generator) -> Image.Image:
    """An ellipse with eyes and a mouth on a plain ground: place, size, turn of the mouth and colours at random."""

    def around(middle: float, by: float) -> int:
        return round(middle + by * random.uniform(-1, 1))

    def oval(x: float, y: float, width: float, height: float, colour: tuple[int, int, int]) -> None:
        draw.ellipse((x - width, y - height, x + width, y + height), fill=colour)

    light = around(190, 45)
    skin = (light, round(0.8 * light), round(0.65 * light))
    hair = (around(70, 50), around(50, 30), around(35, 20))
    image = Image.new("RGB", (178, 218), tuple(int(v) for v in random.integers(40, 220, 3)))
    draw = ImageDraw.Draw(image)
    x, y, width = around(89, 8), around(115, 8), around(42, 7)
    oval(x, y - 12, width + 8, 62, hair)
    oval(x, y, width, 56, skin)
    for side in (-1, 1):
        oval(x + side * 17, y - 12, 6, around(4, 1), (30, 30, 40))
    draw.arc((x - 16, y + 10, x + 16, y + 34), 20, 160, fill=(150, 40, 50), width=around(4, 2))
    return image


def main(folder: Path) -> None:
    images = folder / "celeba" / "img_align_celeba"
    images.mkdir(parents=True)
    random = np.random.default_rng(0)
    parts = [part for part, n in N.items() for _ in range(n)]
    for i, _ in enumerate(parts, 1):
        face(random).save(images / f"{i:06}.jpg", quality=95)
    lines = (f"{i:06}.jpg {part}\n" for i, part in enumerate(parts, 1))
    (images.parent / "list_eval_partition.txt").write_text("".join(lines))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
