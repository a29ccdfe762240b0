"""Principal component analysis beside the models: what d linear components leave of an image, in bounded memory and time."""

import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

BLOCK = 2**23  # numbers of images held as float64 at once, 64 MiB
EXACT = 1024  # pixels or images, whichever are fewer: up to here the full decomposition, which grows with their cube
MOST_EXACT = 4096  # the same where so many components are asked for that the leading ones are no fewer
MOST_BASIS = 2**27  # numbers of the basis that leading components are found in, 1 GiB
OVERSAMPLING = 10  # directions beside those asked for: the last of these then converge as well
MOST_STEPS = 12
TOLERANCE = (
    1e-10  # of the training images' variance: what a step must add to the components' share of it to be worth another
)
LONG_SECONDS = 10  # from here on a line says that it takes so long


def pca_test_mse(
    train: Tensor, test: Tensor, dims: Sequence[int], say: Callable[[str], None] = print
) -> dict[int, float]:
    """Test MSE per pixel of PCA with d components fitted to the training images, by d; uint8 images, (n, ...).

    Of the training images no linear autoencoder leaves less. Computed in float64 from the Gram matrix of pixels or of images,
    whichever are fewer. With up to EXACT of these exactly; with more, the leading components by block Lanczos (Golub and
    Underwood, 1977; Musco and Musco, 2015), whose results agree with the exact ones to 1e-6 where the spectrum falls as that of
    photographs does, and to 1e-2 of pure noise, which has no leading components. d beyond what n images span counts as all of it.

    An extra never ends what it is beside: a d whose components would not fit the memory is left out, and so is all of it where
    the computation fails, and ``say`` is told.
    """
    side = min(len(train), train[0].numel())
    fitting = [d for d in dims if _fits(side, d)]
    if left_out := sorted(set(dims) - set(fitting)):
        shown = ", ".join(map(str, left_out[:5])) + ", ..." * (len(left_out) > 5)
        say(f"pca        left out at d = {shown}: so many components of {side} pixels or images do not fit the memory")
    if not fitting:
        return {}
    if (seconds := pca_seconds(train, test, fitting)) >= LONG_SECONDS:
        say(f"pca        of {len(train)} images of {train[0].numel()} numbers, which takes about {seconds:.0f} s")
    try:
        return _test_mse(train.flatten(1), test.flatten(1), fitting)
    except (RuntimeError, MemoryError) as error:
        say(
            f"pca        left out, as it cannot be computed here: {str(error).partition(chr(10))[0] or 'out of memory'}"
        )
        return {}


def mean_image(images: Tensor) -> Tensor:
    """The mean of uint8 images (n, n_pixels) in [0, 1], (n_pixels,), float64: exact, as whole numbers are added.

    Block by block, as a sum in int64 would first make a copy of eight times the images' size.
    """
    total = torch.zeros(images.shape[1], dtype=torch.int64)
    for block in images.split(max(1, BLOCK // images.shape[1])):
        total += block.sum(0, dtype=torch.int64)
    return total.double() / (255 * len(images))


def components(train: Tensor, d: int, most: int = EXACT) -> tuple[Tensor, Tensor] | None:
    """The mean of uint8 images (n, ...) in [0, 1], (n_pixels,), and d leading components, (n_pixels, d), in float64.

    None where the exact decomposition would take long: of more than ``most`` pixels and images.
    """
    gram = _Gram(train.flatten(1))
    if gram.side > most:
        return None
    d = min(d, gram.side)
    values, vectors = torch.linalg.eigh(gram.matrix())
    values, vectors = values.flip(0)[:d], vectors.flip(1)[:, :d]
    if gram.by_pixels:
        return gram.mean, vectors
    basis = torch.cat([block.T @ vectors for block in gram.blocks()]) / values.clamp_min(1e-300).sqrt()
    return gram.mean, basis


def pca_seconds(train: Tensor, test: Tensor, dims: Sequence[int]) -> float:
    """About how long ``pca_test_mse`` takes, by a measured product of matrices."""
    n, n_pixels = len(train), train[0].numel()
    side, dims = min(n, n_pixels), [d for d in dims if _fits(min(n, n_pixels), d)]
    if not dims:
        return 0.0
    k = min(max(dims), side)
    lanczos = 2 * n * n_pixels * (k + OVERSAMPLING) * MOST_STEPS
    products = n * n_pixels * side + 10 * side**3 if _is_exact(side, k) else lanczos
    products += (len(test) + (n if n < n_pixels else 0)) * n_pixels * k
    a = torch.ones(256, 256, dtype=torch.float64)
    a @ a
    started = time.perf_counter()
    for _ in range(4):
        a @ a
    return products * (time.perf_counter() - started) / (4 * 256**3)


def _is_exact(side: int, k: int) -> bool:
    return side <= EXACT or (side <= MOST_EXACT and (k + OVERSAMPLING) * MOST_STEPS >= side)


def _fits(side: int, d: int) -> bool:
    width = (min(d, side) + OVERSAMPLING) * MOST_STEPS
    return _is_exact(side, min(d, side)) or (width < side and side * width <= MOST_BASIS)


def _test_mse(train: Tensor, test: Tensor, dims: Sequence[int]) -> dict[int, float]:
    gram = _Gram(train)
    k = max(1, min(max(dims), gram.side))
    if _is_exact(gram.side, k):
        values, vectors = torch.linalg.eigh(gram.matrix())
        values, vectors = values.flip(0)[:k], vectors.flip(1)[:, :k]  # descending eigenvalues
    else:
        values, vectors = _leading(gram, k)
    energy, total = gram.energies(test, values, vectors)
    return {d: max(0.0, float(total - energy[:d].sum())) / train.shape[1] for d in dims}


class _Gram:
    """X^T X of centred images X, (n, n_pixels) in [0, 1], or X X^T where there are fewer images than pixels: (side, side).

    Images are made float64 in blocks of BLOCK numbers.
    """

    def __init__(self, train: Tensor) -> None:
        self.train = train
        n, n_pixels = train.shape
        self.by_pixels, self.side = n_pixels <= n, min(n, n_pixels)
        self.mean = mean_image(train)

    def blocks(self) -> Iterator[Tensor]:
        """Parts of X^T, or of X, of all its rows: (side, some)."""
        some = max(1, BLOCK // self.side)
        if self.by_pixels:
            for images in self.train.split(some):
                yield (images.double() / 255 - self.mean).T
        else:
            for pixels, mean in zip(self.train.split(some, dim=1), self.mean.split(some), strict=True):
                yield pixels.double() / 255 - mean

    def matrix(self) -> Tensor:
        product = torch.zeros(self.side, self.side, dtype=torch.float64)
        for block in self.blocks():
            product.addmm_(block, block.T)
        return product

    def times(self, vectors: Tensor) -> Tensor:
        """The matrix times vectors (side, k), without the matrix."""
        product = torch.zeros_like(vectors)
        for block in self.blocks():
            product.addmm_(block, block.T @ vectors)
        return product

    def trace(self) -> float:
        return float(sum(block.square().sum() for block in self.blocks()))

    def energies(self, test: Tensor, values: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Mean square over test images of their part along each component, (k,), and of all of them about the training mean."""
        some = max(1, BLOCK // test.shape[1])
        total = sum((images.double() / 255 - self.mean).square().sum() for images in test.split(some)) / len(test)
        if self.by_pixels:
            parts = ((images.double() / 255 - self.mean) @ vectors for images in test.split(some))
            return sum(part.square().sum(0) for part in parts) / len(test), total
        # A component is X^T u / sqrt(value), so that a test image's part along it is (y - mean) X^T u / sqrt(value).
        along = torch.zeros(len(test), vectors.shape[1], dtype=torch.float64)
        some = max(1, BLOCK // self.side)
        pieces = zip(test.split(some, dim=1), self.mean.split(some), self.blocks(), strict=True)
        for pixels, mean, block in pieces:
            along.addmm_(pixels.double() / 255 - mean, block.T @ vectors)
        there = (
            values > len(self.mean) * torch.finfo(torch.float64).eps * values[0]
        )  # n images span n - 1 directions at most
        return torch.where(there, along.square().mean(0) / values.clamp_min(1e-300), 0.0), total


def _leading(gram: _Gram, k: int) -> tuple[Tensor, Tensor]:
    """The k largest eigenvalues and their vectors (side, k), from the space of G, AG, A^2G, ... of a random start G."""
    width, total = k + OVERSAMPLING, gram.trace()
    basis = torch.empty(gram.side, width * MOST_STEPS, dtype=torch.float64)
    projected = torch.zeros(width * MOST_STEPS, width * MOST_STEPS, dtype=torch.float64)
    start = torch.randn(gram.side, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    block, found = torch.linalg.qr(start)[0], torch.zeros(k, dtype=torch.float64)
    for m in range(width, width * MOST_STEPS + 1, width):
        basis[:, m - width : m] = block
        product = gram.times(block)
        part = basis[:, :m].T @ product
        projected[:m, m - width : m], projected[m - width : m, :m] = part, part.T
        values, weights = torch.linalg.eigh(projected[:m, :m])
        before, found = found, values.flip(0)[:k]
        block = product - basis[:, :m] @ part
        if (found - before).cumsum(0).max() <= TOLERANCE * total or block.norm() <= 1e-12 * product.norm():
            break
        for _ in range(2):  # rounding leaves some of the basis in what is new
            block = torch.linalg.qr(block - basis[:, :m] @ (basis[:, :m].T @ block))[0]
    return found, basis[:, :m] @ weights.flip(1)[:, :k]
