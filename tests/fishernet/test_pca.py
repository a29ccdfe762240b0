"""PCA of images against closed forms and full decompositions, and what happens where it cannot be had."""

import pytest
import torch

from fishernet import pca
from fishernet.pca import mean_image, pca_seconds, pca_test_mse


def pictures(n, height, width, seed=0, decay=1.0):
    """Random smooth images: a spectrum that falls with the square of the frequency, as photographs'."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.fft.rfft2(torch.randn(n, height, width, generator=generator))
    f = (torch.fft.fftfreq(height)[:, None] ** 2 + torch.fft.rfftfreq(width) ** 2) * height**2
    smooth = torch.fft.irfft2(noise / (1 + f) ** decay, s=(height, width))
    return (128 + 50 * smooth / smooth.std()).clamp(0, 255).byte()[:, None]


def by_full_decomposition(train, test, dims):
    """The textbook's way: all pixels by all pixels, all images as float64."""
    x, y = (images.flatten(1).double() / 255 for images in (train, test))
    mean = x.mean(0)
    components = torch.linalg.eigh((x - mean).T @ (x - mean)).eigenvectors.flip(1)
    energy = ((y - mean) @ components).square().mean(0)
    total = (y - mean).square().sum(1).mean()
    return {d: max(0.0, float(total - energy[:d].sum())) / x.shape[1] for d in dims}


def test_of_28_by_28_pixels_it_is_the_full_decomposition_to_rounding(monkeypatch):
    monkeypatch.setattr(pca, "BLOCK", 100_003)  # several blocks, the last one smaller
    train, test, dims = pictures(900, 28, 28), pictures(200, 28, 28, seed=1), [1, 2, 3, 10, 20, 50]
    assert pca_test_mse(train, test, dims) == pytest.approx(by_full_decomposition(train, test, dims), rel=1e-12)


def test_of_few_large_images_it_is_the_full_decomposition_of_their_pixels(monkeypatch):
    monkeypatch.setattr(pca, "BLOCK", 10_007)
    train, test, dims = pictures(40, 28, 28), pictures(20, 28, 28, seed=1), [1, 2, 10, 39]
    expected = by_full_decomposition(train, test, dims)
    assert pca_test_mse(train, test, dims) == pytest.approx(expected, rel=1e-10)
    # 40 images span 39 directions about their mean; more are not there.
    assert pca_test_mse(train, test, [45])[45] == pytest.approx(expected[39], rel=1e-10)


def of_rank(n, height, width, rank, seed):
    """Colour images of `rank` even patches, and their patches' values (n, rank): all of PCA is of that rank."""
    values = torch.randint(0, 256, (n, rank), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    values = (values.double() * torch.linspace(1, 0.1, rank)).byte()
    owner = torch.arange(3 * height * width) * rank // (3 * height * width)
    return values[:, owner].view(n, 3, height, width), values.double() / 255, torch.bincount(owner).double()


@pytest.mark.parametrize(("n", "side"), [(1100, 48), (3500, 24)])  # by images, and by pixels
def test_of_many_images_with_many_pixels_it_is_that_of_their_patches(n, side):
    """Patches are orthogonal, so with a root of its size each is one coordinate, and PCA is of rank x rank numbers."""
    train, x, size = of_rank(n, side, side, 30, seed=0)
    test, y, _ = of_rank(50, side, side, 30, seed=1)
    assert not pca._is_exact(min(n, train[0].numel()), 20)
    root, mean = size.sqrt(), x.mean(0)
    x, y = (x - mean) * root, (y - mean) * root
    axes = torch.linalg.eigh(x.T @ x).eigenvectors.flip(1)
    for d, mse in pca_test_mse(train, test, [1, 5, 20]).items():
        expected = (y @ axes[:, d:]).square().sum(1).mean() / size.sum()
        assert mse == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize(("images", "rel"), [(pictures, 1e-6), (lambda *a, **k: pictures(*a, **k, decay=0), 1e-2)])
@pytest.mark.parametrize("n", [300, 1000])  # by images, and by pixels
def test_the_leading_components_are_as_good_as_all(images, rel, n, monkeypatch):
    train, test, dims = images(n, 24, 25), images(50, 24, 25, seed=1), [1, 2, 5, 10, 12]
    exact = by_full_decomposition(train, test, dims)
    monkeypatch.setattr(pca, "EXACT", 0)
    monkeypatch.setattr(pca, "MOST_EXACT", 0)
    assert not pca._is_exact(min(n, 600), 12)
    assert pca_test_mse(train, test, dims) == pytest.approx(exact, rel=rel)


def test_a_failure_is_a_line_and_no_component(monkeypatch):
    def fails(matrix):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory\nand a trace")

    said = []
    monkeypatch.setattr(torch.linalg, "eigh", fails)
    assert pca_test_mse(pictures(9, 4, 4), pictures(3, 4, 4), [1, 2], said.append) == {}
    assert said == ["pca        left out, as it cannot be computed here: DefaultCPUAllocator: can't allocate memory"]


def test_components_that_would_not_fit_the_memory_are_left_out_and_the_others_are_there(monkeypatch):
    said = []
    monkeypatch.setattr(pca, "EXACT", 0)
    monkeypatch.setattr(pca, "MOST_EXACT", 0)
    assert list(pca_test_mse(pictures(400, 24, 25), pictures(9, 24, 25), [2, 300], said.append)) == [2]
    assert said == ["pca        left out at d = 300: so many components of 400 pixels or images do not fit the memory"]
    assert pca_seconds(pictures(400, 24, 25), pictures(9, 24, 25), [300]) == 0


def test_what_takes_long_says_so_beforehand(monkeypatch):
    said = []
    monkeypatch.setattr(pca, "LONG_SECONDS", 0)
    pca_test_mse(pictures(9, 4, 5), pictures(3, 4, 5), [1], said.append)
    assert len(said) == 1
    assert said[0].startswith("pca        of 9 images of 20 numbers, which takes about ")


def test_the_mean_image_is_exact_whatever_the_number_of_images():
    """Sums above 2^24 have no place in float32; blocks end within the images."""
    images = torch.full((70_000, 3), 255, dtype=torch.uint8)
    images[-1, 0] = 254
    images[:, 2] = torch.arange(70_000) % 2
    expected = torch.tensor([70_000 * 255 - 1, 70_000 * 255, 35_000], dtype=torch.float64) / (70_000 * 255)
    for at_once in (2**23, 1000):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pca, "BLOCK", at_once)
            assert torch.equal(mean_image(images), expected)
