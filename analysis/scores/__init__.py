"""What is computed from trained models, once, and kept with their runs: a row each, and what computes it beside it.

The table imports nothing slow: commands read their flags here.
"""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from analysis import papers
from analysis.flags import Flag, count, dims, levels, positive
from fishernet.flags import Listed

if TYPE_CHECKING:
    from analysis.stored import StoredSweep

FEATURES = {  # the networks that images are compared by -> what a Fréchet distance of theirs is
    "inception": "Fréchet Inception distance (FID)",
    "classifier": "Fréchet distance on classifier features, not FID",
    "random": "Fréchet distance on random features, not FID",
}
SETS = {  # set of images -> a table's row
    "reconstruction": "reconstruction",
    "densest_mode": "reconstruction: densest mode",
    "draws": "draw of p(x given z)",
    "rectified": "sample: rectified normal",
    "prior": "sample: prior",
    "mkde": "sample: Matérn KDE",
    "mixture": "sample: Gaussian mixture",
    "kde": "sample: Gaussian KDE",
    "svgd": "sample: prior by SVGD",
    "tempered": "sample: prior as narrow as SVGD's",
}
NLL_SETS = ("held-out", "training")
NLL_BY_IMAGE = "scores/likelihood-{}.json"  # of a set: a run's NLL of each image
DRAWS, NLL_IMAGES = 100, 1000  # by default: seconds a run
INFORMATION_IMAGES = 1000  # by default
CACHE = Path("~/.cache/fishernet")
DRAWS_FLAG = Flag(
    "--draws",
    {
        "type": count,
        "metavar": "K",
        "help": "importance samples of each image for the negative log-likelihood (NLL), which falls with them; also "
        "scores runs whose likelihood is a density; default: "
        f"{DRAWS}, or what a run has",
    },
)
FEATURES_FLAG = Flag(
    "--features",
    {
        "choices": ("auto", *FEATURES),
        "default": "auto",
        "help": "whose features are compared: Inception v3's as pytorch-fid has it (FID), or a small classifier's trained on the "
        "data set's labels, or a small network's with random weights; auto takes inception where there is a GPU or "
        "--inception-weights, else classifier, and of images without labels random",
    },
)


GPUS_FLAG = Flag("--gpus", {"type": int, "metavar": "N", "help": "GPUs to use; 0 is the CPU; default: all there are"})
CACHE_FLAG = Flag(
    "--cache",
    {
        "type": Path,
        "metavar": "FOLDER",
        "default": CACHE,
        "help": "where the real images' features are kept, and of an NLL what is done until all is; default: %(default)s",
    },
)


@dataclass(frozen=True)
class Score:
    """A row: ``module`` has ``tasks(stored, **arguments)``, what the runs lack of this score; its arguments are the flags'.

    A report computes it where it is ``usual``, or the sweep's paper has arguments for it.
    """

    module: str
    of: str  # which runs have it
    flags: tuple[Flag, ...] = ()
    usual: bool = True


SCORES = {
    "k-means": Score("analysis.scores.clusters", "runs on labelled images"),
    "ellipses": Score("analysis.scores.ellipses", "runs of models with a posterior, at d = 2"),
    "outputs": Score("analysis.scores.outputs", "runs of sweeps in which a decoder gives more than an image"),
    "components": Score("analysis.scores.components", "runs of mixtures of images, where images have labels"),
    "corruptions": Score(
        "analysis.scores.robustness",
        "runs of models whose decoder sees no image, where a paper asks for it",
        (
            Flag(
                "--noise-levels",
                {
                    "action": Listed,
                    "type": levels,
                    "metavar": "V,V",
                    "help": "variances of the noise on images, in squared units of x in [0, 1]; 0, the clean image, is among "
                    "them in any case; default: 0.05,0.1,0.2,0.3,0.5,1",
                },
            ),
            Flag(
                "--mask-levels",
                {
                    "action": Listed,
                    "type": partial(levels, most=1.0),
                    "metavar": "P,P",
                    "help": "shares of the pixels that a mask hides; default: 0.1,0.3,0.5,0.7,0.8,0.9",
                },
            ),
            Flag(
                "--statistics",
                {
                    "choices": ("running", "batch"),
                    "help": "by what batch normalisation goes: the running statistics of training, or each damaged batch's own, "
                    "as the Fisher auto-encoder's released scripts, so that all models adapt to the damage; default: running",
                },
            ),
        ),
        usual=False,
    ),
    "t-sne-clusters": Score(
        "analysis.scores.tsne",
        "runs of two latents or more on labelled images, where a paper asks for it",
        usual=False,
    ),
    "likelihood": Score(
        "analysis.scores.likelihood",
        "runs of models with a posterior, on black and white images or with a likelihood of grey values",
        (
            DRAWS_FLAG,
            Flag(
                "--nll-images",
                {
                    "type": partial(count, least=0),
                    "metavar": "N",
                    "help": "how many images the NLL is of: the first, of training images at equal steps; 0 is all; default: "
                    f"{NLL_IMAGES}",
                },
            ),
            Flag(
                "--nll-of",
                {
                    "nargs": "+",
                    "choices": NLL_SETS,
                    "metavar": "SET",
                    "help": f"whose NLL: {', '.join(NLL_SETS)}; default: {NLL_SETS[0]}, or the paper's",
                },
            ),
            GPUS_FLAG,
            CACHE_FLAG,
        ),
    ),
    "information": Score(
        "analysis.scores.information",
        "runs of models with a posterior, where a paper asks for it",
        (
            Flag(
                "--information-images",
                {
                    "type": partial(count, least=0),
                    "metavar": "N",
                    "help": "how many held-out images the information about them is of, the first, and ln N its highest lower "
                    f"bound; 0 is all; default: {INFORMATION_IMAGES}",
                },
            ),
        ),
        usual=False,
    ),
    "distances": Score(
        "analysis.scores.images",
        "runs at the latent dimensions that are asked for",
        (
            Flag(
                "--latent-dims",
                {
                    "action": Listed,
                    "type": dims,
                    "metavar": "D,D-D",
                    "help": "of the runs to score, as in 2,5,10-20; default: those of the paper if there are such, else all",
                },
            ),
            FEATURES_FLAG,
            Flag(
                "--images",
                {
                    "nargs": "+",
                    "choices": tuple(SETS),
                    "metavar": "SET",
                    "help": f"which sets of images: {', '.join(SETS)}; default: the paper's, else all but mkde, svgd and "
                    "tempered, which take longer",
                },
            ),
            Flag(
                "--svgd-particles",
                {
                    "type": partial(count, least=3),
                    "metavar": "N",
                    "help": "particles of each cloud of samples by SVGD; default: 1000, or what a run has",
                },
            ),
            Flag(
                "--svgd-steps",
                {
                    "type": count,
                    "metavar": "N",
                    "help": "steps of SVGD; default: 300, or what a run has; the paper: 15000",
                },
            ),
            Flag(
                "--svgd-step-size",
                {
                    "type": positive,
                    "metavar": "X",
                    "help": "about how far a coordinate of a particle moves in a step; default: 0.05, or what a run has; the "
                    "paper: 0.001",
                },
            ),
            Flag(
                "--inception-weights",
                {
                    "type": Path,
                    "metavar": "FILE",
                    "help": "pytorch-fid's pt_inception-2015-12-05-6726825d.pth; default: pytorch-fid downloads it",
                },
            ),
            CACHE_FLAG,
            GPUS_FLAG,
        ),
    ),
}


def ensure(stored: StoredSweep, name: str, **given: object) -> list[str]:
    """Compute that score where the runs lack it; a sentence on each run that failed. Raises AnalysisError.

    ``given``: arguments of the score's ``tasks``; else they are those of the sweep's paper, or the defaults.
    """
    tasks, run_tasks = map(pkgutil.resolve_name, (f"{SCORES[name].module}:tasks", "analysis.scores.tasks:run_tasks"))
    lacking = tasks(stored, **{**papers.arguments(stored.paper, name), **given})
    return [*lacking.said, *run_tasks(stored, lacking)]
