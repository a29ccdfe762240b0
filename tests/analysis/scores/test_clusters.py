"""The trace is the best match of clusters with labels, whatever their numbers, and the heat maps show the matrix."""

import json
import math
from itertools import combinations, permutations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from analysis.figures.clusters import plot_overlap
from analysis.scores.clusters import Clusters, cluster

pytestmark = pytest.mark.filterwarnings("error")  # scikit-learn's, about fewer distinct clusters, among them

NAMES = ["T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]


def apart(groups, seed=0, d=3):
    """Means (n, d) so far apart between groups that k-means finds the groups."""
    rng = np.random.default_rng(seed)
    corners = 100 * np.eye(max(d, groups.max() + 1))
    return corners[groups] + rng.normal(size=(len(groups), corners.shape[1]))


def overlapping(n_classes=4, n=300, seed=0):
    """Means whose clusters are not the labels: the labels' centres are close to one another."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_classes, n)
    labels[:n_classes] = np.arange(n_classes)
    return rng.normal(size=(n_classes, 2))[labels] + rng.normal(size=(n, 2)), labels


def best_trace(matrix):
    """The largest sum of shares over all ways to pair rows with columns, by trying each."""
    short, long = sorted(matrix.shape)
    tall = matrix if matrix.shape[0] == long else matrix.T
    return max(tall[list(rows), range(short)].sum() for rows in permutations(range(long), short))


def same(one, other):
    return one.matrix.tolist() == other.matrix.tolist() and one.values() == other.values()


@pytest.mark.parametrize("seed", range(3))
def test_clusters_that_are_the_labels_score_the_number_of_labels(seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(10), 12))
    found = cluster(apart(labels, seed), labels, seed=seed)
    assert found.trace == 10
    assert found.matrix.tolist() == np.eye(10).tolist()
    assert found.nmi == pytest.approx(1, abs=1e-12)
    assert found.ari == 1


def test_an_encoder_that_tells_nothing_apart_scores_exactly_one():
    labels = np.arange(1000) % 10
    found = cluster(np.full((1000, 5), 0.3), labels)
    assert found.trace == 1
    assert sorted(found.matrix.sum(axis=0)) == [0] * 9 + [10]
    assert abs(found.nmi) < 1e-12
    assert found.ari == 0


def test_means_too_close_for_their_squared_distance_count_as_equal():
    """1e-170 squared is 0 in float64: distinct means, of which k-means fills one cluster."""
    means = 1e-170 * np.random.default_rng(0).normal(size=(100, 2))
    found = cluster(means, np.arange(100) % 4)
    assert found.trace == 1
    assert found.matrix.shape == (4, 4)


def test_fewer_distinct_means_than_clusters_leave_the_surplus_empty():
    labels = np.repeat([0, 1, 2, 3], 5)
    found = cluster(np.array([[0.0], [0.0], [1.0], [2.0]])[labels], labels)
    assert found.trace == 3
    assert sorted(found.matrix.sum(axis=0)) == [0, 1, 1, 2]


def test_shares_are_counts_by_label():
    """3 + 1 of label 0, 2 + 6 of label 1 in two clusters: each row is divided by its own number of images."""
    labels = np.repeat([0, 1], [4, 8])
    groups = np.repeat([1, 0, 1, 0], [3, 1, 2, 6])
    found = cluster(apart(groups), labels)
    assert found.matrix.tolist() == [[3 / 4, 1 / 4], [2 / 8, 6 / 8]]
    assert found.trace == 3 / 4 + 6 / 8


@pytest.mark.parametrize("n_clusters", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("seed", range(4))
def test_the_trace_is_the_largest_over_all_ways_to_match(n_clusters, seed):
    means, labels = overlapping(seed=seed)
    found = cluster(means, labels, n_clusters, n_starts=2)
    assert found.matrix.shape == (4, n_clusters)
    assert found.matrix.sum(axis=1) == pytest.approx(np.ones(4), abs=1e-12)
    assert found.trace == pytest.approx(best_trace(found.matrix), abs=1e-12)
    if n_clusters >= 4:  # each label has its column
        assert found.trace == pytest.approx(np.trace(found.matrix), abs=1e-12)
    if n_clusters == 4:  # the mean over all matchings is one
        assert 1 <= found.trace <= 4


def test_columns_without_a_label_come_last_and_the_largest_of_them_first():
    labels = np.repeat([0, 1], [40, 60])
    groups = np.repeat([3, 0, 1, 4, 2], [30, 10, 35, 5, 20])
    found = cluster(apart(groups, d=5), labels, n_clusters=5)
    in_percent = np.round(100 * found.matrix * [[0.4], [0.6]]).astype(int)  # of all images
    assert in_percent.tolist() == [[30, 0, 0, 10, 0], [0, 35, 20, 0, 5]]
    assert found.trace == 30 / 40 + 35 / 60


def test_with_fewer_clusters_than_labels_columns_stand_in_the_order_of_their_labels():
    labels = np.repeat([0, 1, 2], 20)
    groups = np.where(labels == 2, 0, 1)
    groups[:5] = 0  # of label 0, so that label 1 is the one that is all in cluster 1
    found = cluster(apart(groups), labels, n_clusters=2)
    assert found.matrix.tolist() == [[0.75, 0.25], [1, 0], [0, 1]]
    assert found.trace == 2


def test_a_rare_label_counts_as_much_as_a_frequent_one():
    """Its 9 of 10 images decide, though pairing the other way round would match 61 images instead of 49."""
    labels = np.repeat([0, 1], [10, 100])
    groups = np.repeat([0, 1, 0, 1], [9, 1, 60, 40])
    found = cluster(apart(groups), labels)
    assert found.trace == pytest.approx(0.9 + 0.4)
    np.testing.assert_allclose(found.matrix, [[0.9, 0.1], [0.6, 0.4]])


def test_neither_the_order_of_images_nor_the_numbers_of_labels_matter():
    means, labels = overlapping(n_classes=5, n=400)
    found = cluster(means, labels)
    order = np.random.default_rng(1).permutation(len(labels))
    assert same(cluster(means[order], labels[order]), found)

    renamed = np.array([3, 7, 9, 20, 31])
    assert same(cluster(means, renamed[labels]), found)

    turned = np.array([2, 0, 4, 1, 3])
    swapped = cluster(means, turned[labels])
    assert swapped.trace == pytest.approx(found.trace, abs=1e-12)
    assert swapped.matrix[np.ix_(turned, turned)].tolist() == found.matrix.tolist()


def test_a_representation_written_twice_clusters_as_it_does_once():
    means = np.random.default_rng(1).uniform(size=(1000, 2))  # without groups: a start that stops early shows
    labels = (10 * means[:, 0]).astype(int)
    found = cluster(means, labels, n_starts=3)
    assert same(cluster(np.hstack([means] * 4), labels, n_starts=3), found)
    twice = cluster(np.vstack([means, means]), np.hstack([labels, labels]), n_starts=3)
    assert twice.matrix.tolist() == found.matrix.tolist()


def test_equal_means_count_as_often_as_there_are_images():
    """Of 0, 1 and 2.2, the nearest two are 0 and 1, but a hundred images at each of these weigh more than one at 2.2."""
    labels = np.repeat([0, 1], [100, 101])
    found = cluster(np.repeat([[0.0], [1.0], [2.2]], [100, 100, 1], axis=0), labels)
    assert found.trace == 2


def test_dimensions_are_not_scaled():
    """The labels are in a narrow dimension beside a wide one that says nothing of them."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 200)
    narrow, wide = np.where(labels, 0.1, -0.1), rng.uniform(-10, 10, 400)
    assert cluster(np.stack([narrow, wide], axis=1), labels).trace < 1.3
    assert cluster(np.stack([narrow, wide / 1000], axis=1), labels).trace == 2


def test_a_random_encoder_scores_what_the_best_of_random_matchings_does():
    """Clusters independent of balanced labels: above 1, as the best matching is chosen, by as much as chance gives."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 50)

    def by_chance():
        shares = np.zeros((4, 4))
        np.add.at(shares, (labels, rng.permutation(labels)), 1 / 50)
        return best_trace(shares)

    simulated = np.array([by_chance() for _ in range(3000)])
    found = [cluster(apart(rng.permutation(labels), seed), labels, n_starts=2) for seed in range(40)]
    traces = np.array([one.trace for one in found])
    error = simulated.std() * math.sqrt(1 / 40 + 1 / 3000)
    assert abs(traces.mean() - simulated.mean()) < 5 * error
    assert traces.mean() - 1 > 5 * error  # so a trace of some matching, not of the best, would be seen
    assert (traces >= 1 - 1e-12).all()
    for score in ("nmi", "ari"):
        values = np.array([one.values()[score] for one in found])
        assert abs(values.mean()) < 0.03  # of 1; NMI is positive by about 9 / (2 · 200 ln 4) = 0.016


def test_a_seed_gives_one_result_and_is_kept_with_it():
    means, labels = overlapping(n_classes=6, n=500)
    one, again = (cluster(means, labels, n_clusters=7, n_starts=1, seed=5) for _ in range(2))
    assert one.to_dict() == again.to_dict()
    assert (one.n_clusters, one.n_starts, one.seed) == (7, 1, 5)
    others = {cluster(means, labels, n_clusters=7, n_starts=1, seed=seed).ari for seed in range(8)}
    assert len(others) > 1


def test_json_keeps_everything_and_fits_a_tag():
    rng = np.random.default_rng(0)
    labels = np.arange(2000) % 10
    found = cluster(rng.normal(size=(2000, 3)), labels, n_starts=1)
    text = json.dumps(found.to_dict())
    assert len(text) < 4500
    read = Clusters.from_dict(json.loads(text))
    assert read.to_dict() == found.to_dict()
    assert read.values() == found.values()
    assert abs(read.matrix - found.matrix).max() <= 5.1e-5  # half of the fourth decimal
    assert (read.n_starts, read.n_clusters, read.seed) == (1, 10, 0)


@pytest.mark.parametrize(
    ("means", "labels", "settings", "sentence"),
    [
        ([[0.0], [math.nan], [math.inf]], [0, 1, 1], {}, "2 of 3 means are not finite"),
        ([[0.0], [1.0]], [0, 1, 1], {}, "got 2 means and 3 labels"),
        ([0.0, 1.0], [0, 1], {}, r"a row per image.*\(2,\)"),
        (np.zeros((0, 2)), [], {}, "no labels"),
        ([[0.0], [1.0]], [0, 1], {"n_clusters": 3}, "2 images for 3 clusters"),
        ([[0.0], [1.0]], [0, 1], {"n_clusters": 0}, "counts from 1; got 0 and 10"),
        ([[0.0], [1.0]], [0, 1], {"n_starts": 0}, "counts from 1; got 2 and 0"),
    ],
)
def test_what_cannot_be_clustered_is_refused_with_a_sentence(means, labels, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        cluster(np.array(means), np.array(labels), **settings)


def matrices(n, n_clusters=10, n_classes=10):
    rng = np.random.default_rng(n)
    models = ["FisherNet", "VAE", "CVAE gaussian learned exact", "AE", "FisherNet marginal"]
    return [(name, rng.dirichlet(np.full(n_clusters, 0.3), size=n_classes)) for name in models[:n]]


def panels(figure):
    return [axes for axes in figure.axes if axes.get_title()]


def test_each_heat_map_shows_its_matrix_in_percent_on_one_scale():
    given = matrices(3)
    figure = plot_overlap(given, NAMES)
    assert len(figure.axes) == 3 + 1  # one colour bar for all
    assert "%" in figure.axes[-1].get_ylabel()
    for axes, (name, matrix) in zip(panels(figure), given, strict=True):
        assert axes.get_title().replace("\n", " ") == name
        (cells,) = axes.collections
        assert cells.get_array().reshape(10, 10).tolist() == (100 * matrix).tolist()
        assert cells.get_clim() == (0, 100)
        written = {
            (math.floor(text.get_position()[1]), math.floor(text.get_position()[0])): text.get_text()
            for text in axes.texts
        }
        large = {
            (row, column): f"{100 * share:.0f}" for (row, column), share in np.ndenumerate(matrix) if share >= 0.05
        }
        assert written == large
        top, bottom = axes.get_ylim()[::-1]
        assert top < bottom  # the first label is at the top
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == NAMES


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (matrices(1), NAMES),
        (matrices(3), NAMES),
        (matrices(5), NAMES),
        ([*matrices(2), *matrices(3, n_clusters=4), *matrices(1, n_clusters=14)], NAMES),
        (matrices(3, n_clusters=2, n_classes=3), NAMES[:3]),
    ],
    ids=["one", "three", "five", "rectangular", "few labels"],
)
def test_no_text_of_the_figure_touches_another_or_leaves_it(given, names):
    figure = plot_overlap(given, names)
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    texts = []
    for axes in figure.axes:
        if not axes.axison:
            continue
        ticks = [*axes.get_xticklabels(), *axes.get_yticklabels()]
        texts += [axes.title, axes.xaxis.label, axes.yaxis.label, *ticks, *axes.texts]
    boxes = [text.get_window_extent(renderer) for text in texts if text.get_text()]
    assert len(boxes) > len(names)
    for box in boxes:
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1
    for one, other in combinations(boxes, 2):
        assert not one.overlaps(other)


def test_heat_maps_need_a_matrix_and_a_name_per_label():
    with pytest.raises(ValueError, match="no matrix"):
        plot_overlap([], NAMES)
    with pytest.raises(ValueError, match=r"VAE has shape \(3, 3\), which is not a row for each of the 10 class names"):
        plot_overlap([("VAE", np.eye(3))], NAMES)
