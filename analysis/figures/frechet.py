"""Distances between generated and real images, above all the Fréchet distance."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType

import pandas as pd

from analysis.exhibits import Absent, Exhibit, Table, cells, decimals, seeds
from analysis.frame import CURVE, spread
from analysis.parts import Part
from analysis.scores import FEATURES, SETS
from analysis.scores.sampling import BY_SVGD, say_spread
from analysis.stored import StoredSweep
from analysis.which_dimension import say_nothing_learned
from fishernet.plan import Json, format_numbers

OTHER_TITLE = "KID, precision and recall, density and coverage"
NOISE_TITLE = "Fréchet distance to noise"
OTHERS = {"kid": "KID", "precision": "precision", "recall": "recall", "density": "density", "coverage": "coverage"}

TO_NOISE = "frechet_to_noise"
ABOUT = {
    "inception": "Inception v3's 2048 pool features by pytorch-fid: grey images three times as colours, range 0 to 1, resized to "
    "299.",
    "classifier": "The features are the last hidden layer's of a small classifier trained on the labels, so that these numbers "
    "compare with each other and with no FID.",
    "random": "The features are 64 outputs of a small convolutional network with random weights, always the same (Naeem et al. "
    "2020), as the images have no labels. They see brightness, colours, edges and where these are, and know nothing of what is "
    "shown; the numbers compare with each other, on these images, and with no FID.",
}


def features_of(runs: pd.DataFrame) -> str:
    """The network whose Fréchet distances the runs have, Inception's first; empty where they have none."""
    for features in FEATURES:
        columns = [name for name in map(str, runs) if name.startswith(f"{features}/") and name.endswith("/frechet")]
        if runs[columns].notna().any(axis=None):
            return features
    return ""


def parts(
    stored: StoredSweep, features: str = "auto", published: Mapping[str, pd.DataFrame] = MappingProxyType({})
) -> Iterator[Part]:
    """Fréchet distances and the other scores on these features, or on all, from what the runs have.

    ``published``: numbers to stand between, by stem: variant, images, latent_dim, value.
    """
    names = [*FEATURES] if features == "auto" else [features]
    if features == "auto":
        there = [name for name in names if not tidy(stored.runs, name).empty]
        # What no run has is offered beside nothing, or where a paper has it, but for what is there for want of labels.
        offered = names[:-1] if stored.paper or not there else []
        names = [name for name in names if name in there or name in offered]
    for name in names:
        stem = f"frechet_{name}"
        yield Part(stem, FEATURES[name], partial(_tables, stored, name, published.get(stem)))


def _tables(stored: StoredSweep, features: str, said: pd.DataFrame | None) -> Iterator[Part | Exhibit]:
    runs, left_out = of_one_network(stored.runs, features, stored.sweep.command)
    scores = tidy(runs, features)
    if scores.empty:
        why = stored.reasons.get(features) or (
            "No run has these scores; "
            f"`{stored.sweep.command('figures frechet', '--features', features)}` computes them."
        )
        yield Absent(f"frechet_{features}", FEATURES[features], why)
        return
    held_out = stored.sweep.held_out
    left_out += say_nothing_learned(stored.learned_nothing, scores)
    notes = [*say_images(runs, features, held_out), *say_spreads(runs, features), *left_out, *remarks(runs, features)]
    yield Part(
        f"frechet_{features}", FEATURES[features],
        lambda: frechet_table(scores, features, said, notes, held_out),
    )  # fmt: skip
    yield Part(f"image_scores_{features}", OTHER_TITLE, lambda: other_scores_table(scores, features, left_out))
    if (scores["score"] == TO_NOISE).any():
        own = runs.get(f"{features}/real_to_noise", pd.Series(dtype=float)).mean()
        yield Part(f"to_noise_{features}", NOISE_TITLE, lambda: noise_table(scores, features, own, held_out, left_out))


def of_one_network(runs: pd.DataFrame, features: str, command: Callable[..., str]) -> tuple[pd.DataFrame, list[str]]:
    """The runs without image scores that other weights made than those of most runs; where there are any, a sentence on them.

    Distances on the features of two networks do not compare, nor such that were made in different ways. Of two networks with as
    many runs the first by fingerprint counts, and the newer way. ``command`` is ``Sweep.command``.
    """
    columns = {images: [name for name in map(str, runs) if name.startswith(f"{features}/{images}/")] for images in SETS}
    made_with = {
        (i, images): _made_with(scores.get(features, {}).get(images, {}))
        for images, names in columns.items()
        for i, scores, there in zip(runs.index, runs["scores"], runs[names].notna().any(axis=1), strict=True)
        if there
    }
    n_runs = Counter(fingerprint for _, fingerprint in {(i, found) for (i, _), found in made_with.items()})
    if not n_runs:
        return runs, []
    chosen = min(n_runs, key=lambda made: (-n_runs[made], not made[1], made))
    flags = ["--features", features, *(["--inception-weights", "FILE"] if features == "inception" else [])]
    flattered = [] if chosen[1] else _say_flattered(runs, features, command("figures frechet", *flags))
    others = [place for place, made in made_with.items() if made != chosen]
    if not others:
        return runs, flattered
    kept = runs.assign(scores=runs["scores"].map(partial(_only_by, chosen, features)))
    for i, images in others:
        kept.loc[i, columns[images]] = math.nan
    n, dims = len({i for i, _ in others}), runs["latent_dim"][sorted({i for i, _ in made_with})]
    by = f"other weights of the {features} network"
    if len({how for _, how in n_runs}) > 1:
        by += ", or an older version with other numbers of images,"
    again = command("figures frechet", *flags, "--latent-dims", format_numbers(dims))
    return kept, [
        f"Left out are scores of {n} run{'s' * (n > 1)}, as {by} made them; `{again}` scores all runs with the same.",
        *flattered,
    ]


def _made_with(about: Json) -> tuple[str, str]:
    """The network's fingerprint, and how its features were used; empty of scores that older versions made."""
    return about.get("features", ""), about.get("how", "")


def _only_by(chosen: tuple[str, str], features: str, scores: Json) -> Json:
    about = {name: of for name, of in scores.get(features, {}).items() if _made_with(of) == chosen}
    return {**scores, features: about}


def _say_flattered(runs: pd.DataFrame, features: str, again: str) -> list[str]:
    """Of older scores: that samples, of which there were more than reconstructions, have the smaller bias."""
    sets = [(name, of) for scores in runs["scores"] for name, of in scores.get(features, {}).items()]
    if all(of.get("n_images", 0) <= of.get("n_real", 0) for name, of in sets if name != "reconstruction"):
        return []
    return [
        "There are more samples than reconstructions, and the bias of a distance falls with their number, so samples look better "
        f"than they are; `{again}` scores as many of both."
    ]


def say_images(runs: pd.DataFrame, features: str, held_out: str = "test") -> list[str]:
    """How many images were compared with how many: the bias of a Fréchet distance depends on both."""
    found: dict[str, set[int]] = {"samples": set(), "reconstructions of these": set()}
    n_real = set()
    for scores in runs["scores"]:
        for name, about in scores.get(features, {}).items():
            kind = "reconstructions of these" if name == "reconstruction" else "samples"
            found[kind].add(about.get("n_images", 0))
            n_real.add(about.get("n_real", 0))
    compared = " or ".join(f"{_numbers(n)} {kind}" for kind, n in found.items() if n - {0})
    if not compared:
        return []
    return [
        f"{_numbers(n_real)} {held_out} images are compared with {compared}; the distance's bias depends on these numbers."
    ]


def say_spreads(runs: pd.DataFrame, features: str) -> list[str]:
    """Of samples by SVGD how wide they are beside exact ones: a narrow cloud changes a distance whatever the prior."""
    found: dict[str, dict[str, list[tuple[float | None, int]]]] = {name: {} for name in BY_SVGD}
    how: dict[str, dict[str, None]] = {name: {} for name in BY_SVGD}
    for (variant, d), of_line in runs.groupby(["variant", "latent_dim"], sort=False):
        for scores in of_line["scores"]:
            for name in BY_SVGD:
                if name in (about := scores.get(features, {})):
                    own = about[name].get("spread"), about[name].get("improper", 0)
                    if by := about[name].get("by"):
                        how[name][f"{by['steps']:,} steps of {by['step_size']:g}, {by['particles']:,} particles"] = None
                    found[name].setdefault(f"{variant}, d = {d}", []).append(own)
    return [
        f"Samples ({'; '.join([SETS[name].removeprefix('sample: '), *how[name]])}): "
        + "; ".join(f"{line}, {_say_spread(values)}" for line, values in lines.items())
        + "."
        for name, lines in found.items()
        if lines
    ]


def _say_spread(of_runs: Sequence[tuple[float | None, int]]) -> str:
    """That of the mean over runs; of none where one run's prior is no density."""
    spreads = [spread for spread, _ in of_runs]
    known = [spread for spread in spreads if spread is not None]
    whole = sum(known) / len(known) if len(known) == len(spreads) else None
    return say_spread(whole, sum(n for _, n in of_runs) / len(of_runs))


def _numbers(numbers: set[int]) -> str:
    return " or ".join(f"{n:,}" for n in sorted(numbers - {0}))


def tidy(runs: pd.DataFrame, features: str) -> pd.DataFrame:
    """One row per run, set of images and score: variant, model, latent_dim, seed, images, score, value.

    Of samples by SVGD also the score ``variance``, theirs over that of exact draws.
    """
    keys = ["variant", "model", "latent_dim", "seed"]
    parts = [
        runs[keys].assign(images=images, score=score, value=runs[name])
        for images in SETS
        for score in ("frechet", TO_NOISE, *OTHERS)
        if (name := f"{features}/{images}/{score}") in runs
    ]
    if not parts:
        return pd.DataFrame(columns=[*keys, "images", "score", "value"])
    for images in BY_SVGD:
        found = [scores.get(features, {}).get(images, {}).get("spread") for scores in runs["scores"]]
        parts.append(runs[keys].assign(images=images, score="variance", value=pd.Series(found, runs.index, float)))
    return pd.concat(parts).dropna(subset="value")


def remarks(runs: pd.DataFrame, features: str) -> list[str]:
    """What was said while these scores were computed, each once: too few images, an imaginary root."""
    said = [
        remark
        for scores in runs["scores"]
        for about in scores.get(features, {}).values()
        for remark in about.get("remarks", [])
    ]
    return list(dict.fromkeys(said))


def frechet_table(
    scores: pd.DataFrame,
    features: str,
    said: pd.DataFrame | None,
    remarks: Sequence[str] = (),
    held_out: str = "test",
) -> Table:
    """The Fréchet distance by variant, set of images and latent_dim; what a paper says, ``said``, in rows of its own."""
    data = spread(scores[scores["score"] == "frechet"], [*CURVE, "images"])
    widths = spread(scores[scores["score"] == "variance"], [*CURVE, "images"])[[*CURVE, "images", "mean"]]
    if len(widths):
        data = data.merge(widths.rename(columns={"mean": "variance"}), how="left", on=[*CURVE, "images"])
    if said is None:
        said = pd.DataFrame(columns=["variant", "images", "latent_dim", "value"])
    dims = sorted({*data["latent_dim"], *(said["latent_dim"] if features == "inception" else ())})
    rows, digits = [], decimals(data["mean"], least=1)
    for variant in data["variant"].unique():
        for images, name in SETS.items():
            line = data[(data["variant"] == variant) & (data["images"] == images)]
            in_paper = said[(said["variant"] == variant) & (said["images"] == images)].set_index("latent_dim")["value"]
            ours = cells(line, "latent_dim", digits)
            head: dict[str, str] = {"model": variant, "images": name}
            if ours:
                rows.append(head | {"source": "these runs"} | {f"d = {d}": ours.get(d, "") for d in dims})
            if len(in_paper):
                by_dim = {f"d = {d}": f"{in_paper[d]:.0f}" if d in in_paper else "" for d in dims}
                rows.append(head | {"source": "paper (FID)"} | by_dim)
    caption = (
        f"{FEATURES[features]}, lower is better, against the {held_out} images; mean ± standard deviation over {seeds(data)}. "
        + f"{ABOUT[features]} "
        + "Densities are fitted to the training images' latent means."
    )
    return Table(f"frechet_{features}", FEATURES[features], " ".join([caption, *remarks]), data, pd.DataFrame(rows))


def other_scores_table(scores: pd.DataFrame, features: str, remarks: Sequence[str] = ()) -> Table:
    """KID, precision, recall, density and coverage by variant, set of images and latent_dim."""
    data = spread(scores[scores["score"].isin(OTHERS)], [*CURVE, "images", "score"])
    # KID grows with the cube of the features' scale: below 1 on Inception's, in the thousands on the classifier's.
    kid_digits = decimals(data.loc[data["score"] == "kid", "mean"], least=0)
    rows = []
    for (variant, images, d), line in data.groupby(["variant", "images", "latent_dim"], sort=False):
        values = cells(line, "score", 3) | cells(line[line["score"] == "kid"], "score", kid_digits)
        rows.append(
            {"model": variant, "images": SETS[str(images)], "d": d}
            | {title: values.get(name, "") for name, title in OTHERS.items()}
        )
    caption = (
        f"On {features} features; mean ± standard deviation over seeds. KID: kernel distance, lower is better (Bińkowski et al. "
        "2018). Precision and density say how realistic the images are, recall and coverage how much of the real ones they reach "
        "(Kynkäänniemi et al. 2019; Naeem et al. 2020; five nearest neighbours); higher is better."
    )
    return Table(
        f"image_scores_{features}",
        OTHER_TITLE,
        " ".join([caption, *remarks]),
        data,
        pd.DataFrame(rows),
    )


def noise_table(
    scores: pd.DataFrame, features: str, real: float, held_out: str = "test", remarks: Sequence[str] = ()
) -> Table:
    """Of every set of images the Fréchet distance to uniform noise, beside that to held-out images, by variant and latent_dim.

    ``real``: the distance of held-out images to noise.
    """
    data = spread(scores[scores["score"].isin(["frechet", TO_NOISE])], [*CURVE, "images", "score"])
    noisy = data[data["score"] == TO_NOISE]
    titles = {"frechet": f"to {held_out} images", TO_NOISE: "to noise"}
    rows = []
    for variant, images, d in zip(noisy["variant"], noisy["images"], noisy["latent_dim"], strict=True):
        line = data[(data["variant"] == variant) & (data["images"] == images) & (data["latent_dim"] == d)]
        values = cells(line, "score", 1)
        rows.append(
            {"model": variant, "images": SETS[str(images)], "d": d}
            | {titles[name]: values.get(name, "") for name in titles}
        )
    caption = (
        f"On {features} features; mean ± standard deviation over {seeds(noisy)}. Against the {held_out} images, lower is better. "
        f"Against images of uniform noise, lower is noisier and says nothing of quality: {held_out} images themselves have "
        f"{real:.0f}."
    )
    return Table(f"to_noise_{features}", NOISE_TITLE, " ".join([caption, *remarks]), data, pd.DataFrame(rows))
