"""The figures and tables of a sweep: a row each, and the module that draws it beside it.

The table imports nothing slow: commands read their flags here.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from analysis import papers
from analysis.flags import PICTURES, Flag, count, dims, positive
from analysis.scores import FEATURES_FLAG, SCORES
from fishernet.flags import Listed

if TYPE_CHECKING:
    from analysis.exhibits import Exhibit
    from analysis.parts import Part
    from analysis.stored import StoredSweep

SECTIONS = {  # of a page, in its order -> what is above its figures
    "Reconstruction": "How error and loss change with the latent dimension and during training.",
    "Claims": "What the paper says, what these runs show, and whether that bears it out.",
    "Outputs": "What decoders say of an image beside its expectation: spread, components, and whether they are right.",
    "Tuning": "What the best setting of each model gains, and what is left of the differences between models.",
    "Latent space": "Where the images lie, and how certain the models are of it.",
    "Likelihood and information": "How probable the models find images, and how much their posteriors say.",
    "Samples": "New images, and how far they are from real ones.",
    "Clusters": "Whether k-means finds the labels in the latent means.",
}
MOST_EPOCH_DIMS = 4  # as many as there are line styles to tell apart
DENSITIES = {
    "prior": "the prior",
    "mkde": "Matérn kernel density estimation",
    "mixture": "a Gaussian mixture",
    "kde": "Gaussian kernel density estimation",
    "svgd": "the prior by Stein's method (SVGD)",
    "tempered": "N(0, 1) made as narrow as SVGD would",
}
LARGEST_DIM = Flag(
    "--latent-dim", {"type": int, "metavar": "D", "help": "of the runs shown; default: the largest that they have"}
)
LATENT_DIM = Flag(
    "--latent-dim",
    {
        "type": int,
        "metavar": "D",
        "help": "of the runs shown; default: that which most lines have, of several the largest",
    },
)


@dataclass(frozen=True)
class Figure:
    """A row: ``module`` has ``parts(stored, **arguments)``; its arguments are the flags', and those that a paper's row gives.

    Where ``published``, it also takes the numbers that the paper publishes, by stem.
    """

    module: str
    section: str
    stem: str  # of what stands in its place where it cannot be had, and the title of that
    title: str
    about: str
    example: str = ""  # of its flags
    flags: tuple[Flag, ...] = ()
    published: bool = False
    scores: tuple[str, ...] = ()  # rows of SCORES that its command computes first
    usual: bool = (
        True  # else a page leaves it out where it cannot be had, unless the sweep's paper has arguments for it
    )
    on_request: bool = False  # a page has it only where the sweep's paper has arguments for it
    alone: bool = False  # a command of `fishernet` by its own name, not below figures

    @property
    def all_flags(self) -> tuple[Flag, ...]:
        """Its own, and those of its scores."""
        return (*self.flags, *(flag for score in self.scores for flag in SCORES[score].flags))


FIGURES = {
    "claims": Figure(
        "analysis.figures.claims", "Claims", "claims", "Claims",
        "Hold every claim of a paper against a sweep's runs: paired differences over seeds, 95% intervals and a\n"
        "verdict: confirmed, contradicted, flat because poor, undecided, too short, or not asked of these data.\n"
        "Writes claims.csv, one row per comparison, and claims.tex.",
    ),
    "mse-curves": Figure(
        "analysis.figures.mse_curves", "Reconstruction", "mse", "Reconstruction error",
        "Draw test MSE against latent dimension and by epoch, with the spread over seeds, from a sweep's\n"
        "records in MLflow. Writes mse_curves and mse_by_epoch, each as PNG, PDF and CSV, and the table mse.",
        "--epoch-dims 2,5,10",
        (
            Flag(
                "--epoch-dims",
                {
                    "action": Listed,
                    "type": partial(dims, most=MOST_EPOCH_DIMS),
                    "metavar": "D,D,D",
                    "help": "latent dimensions drawn by epoch; default: those of the paper, else the ends of those swept and "
                    "what lines need",
                },
            ),
        ),
    ),
    "loss-curves": Figure(
        "analysis.figures.loss_curves", "Reconstruction", "loss_and_mse", "Loss and MSE",
        "Draw one model's loss and MSE against latent dimension, and every variant's loss by epoch, from a\n"
        "sweep's records in MLflow. Writes loss_and_mse and loss_by_epoch, each as PNG, PDF and CSV.",
    ),
    "distributions": Figure(
        "analysis.figures.outputs", "Outputs", "outputs", "What decoders emit",
        "Where decoders give more than an image: errors of each point estimate beside a paper's, standard deviations\n"
        "of pixels, components of mixtures with their weights, and how often intervals cover. Computed once per run\n"
        "and kept with it in MLflow.",
        published=True,
        scores=("outputs",),
    ),
    "robustness": Figure(
        "analysis.figures.robustness", "Reconstruction", "robustness_curves", "Robustness",
        "Draw how well models restore images that noise or a mask has damaged: error and NMI against the level, a table\n"
        "with the clean error, the rise and the level at which the error doubles, and pictures. Computed from the stored\n"
        "weights, once per run, and kept with it in MLflow.",
        "--latent-dim 8",
        (
            *PICTURES,
            Flag(
                "--latent-dim",
                {
                    "type": int,
                    "metavar": "D",
                    "help": "of the curves and pictures; default: that which most lines have, of several the largest",
                },
            ),
        ),
        scores=("corruptions",),
        usual=False,
    ),
    "latent-space": Figure(
        "analysis.figures.latent_space", "Latent space", "latent_space", "Latent spaces of two dimensions",
        "Draw the latent spaces of a sweep's runs at d = 2: means by class, uncertainty ellipses of one image and\n"
        "of three classes with a table of their sizes, and samples of the latent density.",
        "--seed 1 --image 25",
        (
            *PICTURES,
            Flag(
                "--image",
                {
                    "type": int,
                    "metavar": "INDEX",
                    "help": "the held-out image whose uncertainty is shown, from 0; default: one whose ellipses are typical in "
                    "size and shape",
                },
            ),
            Flag(
                "--density",
                {
                    "choices": tuple(DENSITIES),
                    "help": "the latent density that is sampled; default: mkde where the runs have its samples, else mixture",
                },
            ),
        ),
    ),
    "explore": Figure(
        "analysis.explorer", "Latent space", "explorer", "Latent explorer",
        "Move through the latent spaces of two lines side by side, on one page: a map of the encoded images, a slider for\n"
        "each latent, the image at the pointer decoded in the page, and posterior ellipses. Writes explorer.html, which\n"
        "needs no network and no server.",
        "--latent-dims 2,10",
        (
            PICTURES[0],
            Flag(
                "--models",
                {
                    "nargs": "+",
                    "default": (),
                    "metavar": "LINE",
                    "help": "lines of the sweep; default: two, those whose posteriors have ellipses first",
                },
            ),
            Flag(
                "--latent-dims",
                {
                    "action": Listed,
                    "type": dims,
                    "metavar": "D,D",
                    "help": "latent dimensions, up to 64; default: the smallest that all these lines have",
                },
            ),
            Flag(
                "--seed",
                {"type": int, "metavar": "N", "help": "the seed whose runs are shown; default: the best of each"},
            ),
        ),
        usual=False,
        alone=True,
    ),
    "prior-densities": Figure(
        "analysis.figures.prior_densities", "Latent space", "prior_densities", "Learned priors",
        "Draw the density of each latent that runs with a learned prior found, over the histogram of their codes.",
        "--latent-dim 8",
        (
            *PICTURES,
            LARGEST_DIM,
        ),
        usual=False,
    ),
    "posterior-widths": Figure(
        "analysis.figures.posterior_widths", "Latent space", "posterior_widths", "Widths of posteriors",
        "Draw the variances of diagonal posteriors against those that the Fisher divergence and the KL divergence ask for.",
        "--latent-dim 8",
        (
            *PICTURES,
            LARGEST_DIM,
        ),
        usual=False,
        on_request=True,
    ),
    "embeddings": Figure(
        "analysis.figures.embeddings", "Latent space", "embeddings", "Latent means in a plane",
        "Draw latent means of more than two dimensions in a plane by t-SNE, coloured by class, and histograms of how far\n"
        "draws of the posteriors lie from their mean, beside the prior's.",
        "--latent-dim 10",
        (
            *PICTURES,
            LATENT_DIM,
            Flag(
                "--images",
                {
                    "type": count,
                    "metavar": "N",
                    "help": "how many held-out images of each line t-SNE places, the first; default: 2000, or fewer where many "
                    "lines are shown, so that it takes a minute",
                },
            ),
        ),
        on_request=True,
    ),
    "traversals": Figure(
        "analysis.figures.traversals", "Samples", "traversals", "Moves through latent spaces",
        "Draw what decoders make of an image when one of its latents moves, the narrowest first, and of the straight line\n"
        "between two images.",
        "--image 7 --reach 3",
        (
            *PICTURES,
            LATENT_DIM,
            Flag(
                "--image",
                {
                    "type": int,
                    "metavar": "INDEX",
                    "help": "the held-out image whose latents move, from 0; default: the first",
                },
            ),
            Flag(
                "--reach",
                {
                    "type": positive,
                    "metavar": "Z",
                    "help": "how far a latent moves each way from its posterior mean, in units of z, where the prior's standard "
                    "deviation is 1; default: 10, as in the Fisher-Shannon paper",
                },
            ),
        ),
        on_request=True,
    ),
    "fisher-shannon-plane": Figure(
        "analysis.figures.plane", "Likelihood and information", "fisher_shannon_plane", "Fisher-Shannon plane",
        "Draw how wide posteriors are in entropy against how wide in Fisher information, by model, latent dimension and\n"
        "epoch, and error, NLL and classes over the target F; list the NLL by importance sampling, active latents, how wide\n"
        "they are and how much they tell. Scores are computed from the stored weights.",
        "--draws 1000 --nll-images 0",
        (
            *PICTURES,
            Flag(
                "--path",
                {
                    "metavar": "LINE",
                    "help": "the line whose path over epochs is drawn; default: the paper's, else the first that has one",
                },
            ),
        ),
        published=True,
        scores=("likelihood", "information"),
    ),
    "frechet": Figure(
        "analysis.figures.frechet", "Samples", "frechet", "Fréchet distances",
        "Fréchet distance, KID, precision, recall, density and coverage of reconstructions and samples against\n"
        "the held-out images. Computed from the stored weights, once per run, and kept with it in MLflow.",
        "--features classifier",
        (*PICTURES, FEATURES_FLAG),
        published=True,
        scores=("distances",),
    ),
    "samples": Figure(
        "analysis.figures.samples", "Samples", "samples", "Samples",
        "Draw images decoded from samples of the prior and of a density of the latent means, and reconstructions of\n"
        "the first held-out images. Writes prior_samples_dNN, density_samples_images_dNN and reconstructions.",
        "--latent-dims 2,15",
        (
            *PICTURES,
            Flag(
                "--latent-dims",
                {
                    "action": Listed,
                    "type": dims,
                    "metavar": "D,D",
                    "help": "latent dimensions of all these pictures; default: those of the paper, else the smallest and the "
                    "largest that most lines have; of reconstructions also what lines need",
                },
            ),
            Flag(
                "--density",
                {
                    "choices": tuple(name for name in DENSITIES if name != "prior"),
                    "help": "the density that is sampled beside the prior; default: mkde where the runs have its samples, else "
                    "mixture",
                },
            ),
        ),
    ),
    "clusters": Figure(
        "analysis.figures.clusters", "Clusters", "cluster_trace", "Clusters against labels",
        "k-means on the held-out images' latent means, compared with the labels: trace, NMI and ARI, and the\n"
        "overlap of both. Computed once per run and kept with it in MLflow.",
        "",
        (
            *PICTURES,
            Flag(
                "--latent-dim",
                {
                    "type": int,
                    "metavar": "D",
                    "help": "of the overlap matrices; default: that of the paper, else the smallest",
                },
            ),
        ),
        published=True,
        scores=("k-means",),
    ),
    "t-sne": Figure(
        "analysis.figures.tsne", "Clusters", "tsne", "Clusters after t-SNE",
        "Draw the latent means of noisy images after t-SNE to two dimensions, and how well k-means finds the labels there\n"
        "and in the means themselves, against the variance of the noise. Computed from the stored weights, once per run, a\n"
        "minute each, and kept with it in MLflow.",
        "--latent-dim 8",
        (
            *PICTURES,
            Flag(
                "--latent-dim",
                {
                    "type": int,
                    "metavar": "D",
                    "help": "of the curves and panels; default: that which most lines have, of several the largest",
                },
            ),
        ),
        scores=("t-sne-clusters",),
        usual=False,
    ),
}  # fmt: skip


def parts(stored: StoredSweep, name: str, **given: object) -> Iterable[Part | Exhibit]:
    """What that figure shows of a sweep; ``given``: arguments that go before those of the sweep's paper."""
    row = FIGURES[name]
    arguments: dict[str, object] = {**papers.arguments(stored.paper, name), **given}
    if row.published:
        arguments["published"] = stored.published
    made: Iterable[Part | Exhibit] = pkgutil.resolve_name(f"{row.module}:parts")(stored, **arguments)
    return made
