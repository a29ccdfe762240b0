"""Test MSE against latent dimension and by epoch (FisherNet paper, Figures 2 and 3), from a sweep's records.

python analysis/mse_curves.py --name SWEEP
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:  # started as a script: its own folder leads sys.path, and the packages are beside that folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from analysis import command
from analysis.parts import Failures, Part, all_of
from fishernet.services.mlflow_store import default_tracking_uri
from fishernet.surroundings import entry_point

# pandas, MLflow and matplotlib take seconds to import: functions do it, so that --help answers at once.
if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from analysis.exhibits import Picture, Table
    from analysis.frame import Sweep
    from analysis.stored import StoredSweep

PAPER_EPOCH_DIMS = (2, 5, 10)  # the latent dimensions of the paper's Figure 3
MOST_EPOCH_DIMS = 4  # as many as there are line styles to tell apart


@entry_point
def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 after a sentence on stderr when there is nothing to draw."""
    parser = command.parser(
        "fishernet-mse-curves",
        "Draw test MSE against latent dimension and by epoch, with the spread over seeds, from a sweep's\n"
        "records in MLflow. Writes mse_curves and mse_by_epoch, each as PNG, PDF and CSV.",
        "python analysis/mse_curves.py --name figure-2 --epoch-dims 2,5,10",
    )
    parser.add_argument(
        "--epoch-dims",
        type=_dims,
        metavar="D,D,D",
        help="latent dimensions drawn by epoch; default: 2,5,10, or up to three of those that were swept",
    )
    options = parser.parse_args(argv)
    return command.run(lambda: int(report(options.name, options.tracking_uri, options.out, options.epoch_dims).n > 0))


def draw(
    name: str | None = None,
    tracking_uri: str | None = None,
    out: Path | None = None,
    epoch_dims: Sequence[int] | None = None,
) -> list[Path]:
    """Write both figures and their data for a sweep; return the paths. Defaults are the command line's.

    Raises AnalysisError when the sweep is not there, no run of it has finished, or out cannot be written to.
    """
    from analysis import frame
    from analysis.exhibits import write

    sweep = frame.find_sweep(name, tracking_uri or default_tracking_uri())
    folder, parts = _planned(sweep, frame.load_runs(sweep), out, epoch_dims)
    made = list(all_of(parts))
    with command.writing_to(folder):
        return [path for picture in made for path in write(picture, folder)]


def plot_mse_against_latents(runs: "pd.DataFrame", pca: Mapping[int, float], held_out: str = "test") -> "Figure":
    """MSE per pixel at the last epoch against latent_dim: a line per variant, band ± one standard deviation.

    The reconstruction is decoded from the posterior mean (FisherNet paper, eq. 32); the spread is over seeds.
    ``pca``, the MSE of a PCA with d components, is a line of reference that may leave the figure at the top;
    where all of it lies far above every model, the legend gives its lowest value instead.
    """
    from analysis import frame, style

    means = frame.summary(runs, f"{held_out}/mse")
    dims = sorted(means["latent_dim"].unique().tolist())
    variants = style.by_variant(means)
    with style.new_figure() as (figure, axes):
        keys = []
        for nth, (variant, look, line) in enumerate(variants):
            if len(dims) == 1:  # side by side, as all would lie on one vertical
                line = line.assign(latent_dim=line["latent_dim"] + 0.12 * (nth - (len(variants) - 1) / 2))
            look["label"] = style.label(variant)
            keys.append(style.line_with_band(axes, line, "latent_dim", look))
        linear = {d: pca[d] for d in dims if d in pca}
        if linear:
            best = min(linear, key=lambda d: linear[d])
            bottom, top = axes.get_ylim()  # before PCA, whose first components would flatten all other lines
            in_reach = linear[best] - bottom < 1.5 * (top - bottom)
            margin = 0.04 * (top - bottom)
            axes.set_ylim(min(bottom, linear[best] - margin), max(top, linear[best] + margin) if in_reach else top)
            keys += axes.plot(
                list(linear),
                list(linear.values()),
                color=style.PCA_COLOUR,
                linewidth=1.2,
                zorder=1.5,  # below the models' lines
                marker="_" if len(linear) == 1 else "",
                markersize=14,
                label="PCA, $d$ components" if in_reach else f"PCA above: {linear[best]:.3g} at $d$ = {best}",
            )
        axes.set_xlabel("latent dimension $d$")
        axes.set_ylabel(f"{held_out} MSE per pixel")
        style.whole_ticks(axes, dims)
        figure.legend(handles=[*keys, style.spread_key(means)], loc="outside right upper")
    return figure


def plot_mse_by_epoch(epochs: "pd.DataFrame", held_out: str = "test") -> "Figure":
    """MSE per pixel (logarithmic) by epoch: colour is the variant, line style latent_dim, bands as above."""
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    from analysis import frame, style

    means = frame.spread(epochs[epochs["metric"] == f"{held_out}/mse"], [*frame.CURVE, "epoch"])
    dims = sorted(means["latent_dim"].unique().tolist())
    if len(dims) > MOST_EPOCH_DIMS:
        raise ValueError(f"line styles tell {MOST_EPOCH_DIMS} latent dimensions apart; got {_listed(dims)}")
    dash_of = dict(zip(dims, style.DASHES, strict=False))
    only_one_epoch = means["epoch"].nunique() == 1
    marker = "o" if only_one_epoch else ""
    with style.new_figure() as (figure, axes):
        axes.set_yscale("log")
        keys = []
        for variant, look, lines in style.by_variant(means):
            colour, name = look["color"], style.label(variant)
            keys.append(Line2D([], [], color=colour, linewidth=2.5, label=name))
            for d, line in lines.groupby("latent_dim"):
                of_dim = {
                    "linestyle": dash_of[d],
                    "marker": marker,
                    "linewidth": 1.3,
                    "label": f"{name}, d = {d}",
                }
                style.line_with_band(axes, line, "epoch", {"color": colour} | of_dim)
        keys.append(style.gap_key())
        for d, dash in dash_of.items():
            keys.append(Line2D([], [], color=style.KEY_COLOUR, linestyle=dash, marker=marker, label=f"$d$ = {d}"))
        style.plain_log_ticks(axes)
        axes.set_xlabel("epoch")
        axes.set_ylabel(f"{held_out} MSE per pixel")
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
        if only_one_epoch:
            axes.set_xlim(means["epoch"].min() - 1, means["epoch"].max() + 1)
        figure.legend(handles=[*keys, style.spread_key(means)], loc="outside right upper")
    return figure


def choose_epoch_dims(present: Sequence[int], wanted: Sequence[int] | None) -> list[int]:
    """The latent dimensions to draw by epoch: those wanted, else of the paper's 2, 5, 10, else three of all.

    Raises AnalysisError when one that was asked for has no finished run.
    """
    from analysis.frame import AnalysisError

    present = sorted(present)
    absent = sorted(set(wanted or ()) - set(present))
    if absent:
        raise AnalysisError(
            f"--epoch-dims asks for d = {_listed(absent)}, of which no run has finished; "
            f"there are finished runs of d = {_listed(present)}."
        )
    if wanted:
        return sorted(wanted)
    of_the_paper = [d for d in PAPER_EPOCH_DIMS if d in present]
    return of_the_paper or sorted({present[0], present[len(present) // 2], present[-1]})


def report(
    name: str | None = None,
    tracking_uri: str | None = None,
    out: Path | None = None,
    epoch_dims: Sequence[int] | None = None,
) -> Failures:
    """What ``draw`` does, and print the means, what is missing and the paths written; a figure that fails takes nothing along."""
    from analysis import frame
    from analysis.exhibits import Absent, Exhibit, as_text

    sweep = frame.find_sweep(name, tracking_uri or default_tracking_uri())
    if name is None:
        print(f"sweep {sweep.name}, the one started last (--name draws another)\n")
    if sweep.moved:
        print(sweep.moved)
    runs = frame.load_runs(sweep)
    folder, parts = _planned(sweep, runs, out, epoch_dims)
    failures = Failures(folder, passing=(frame.AnalysisError,))
    pictures: list[Exhibit] = [picture for part in parts for picture in failures.exhibits(*part)]
    written = [command.written(picture, folder, failures) for picture in pictures]
    print(f"{sweep.held_out} MSE per pixel, mean ± standard deviation over seeds (number of seeds)\n")
    print(_table(frame.summary(runs, sweep.score("mse"))))
    print()
    for line in _remarks(sweep, runs, epoch_dims):
        print(line)
    for picture, paths in written:
        print(as_text(picture)) if isinstance(picture, Absent) else print(*paths, sep="\n")
    return failures


def parts(stored: "StoredSweep", epoch_dims: Sequence[int] | None = None) -> Iterator[Part]:
    """The table of means, and Figures 2 and 3."""
    yield Part("mse", "Reconstruction error", lambda: mse_table(stored.sweep, stored.runs))
    dims = choose_epoch_dims(stored.runs["latent_dim"].unique().tolist(), epoch_dims)
    yield from pictures(stored.sweep, stored.runs, dims)


def mse_table(sweep: "Sweep", runs: "pd.DataFrame") -> "Table":
    """MSE per pixel by variant and latent_dim, with PCA, the best linear autoencoder of the training images, beside them."""
    import pandas as pd

    from analysis import frame
    from analysis.exhibits import Table, cells, seeds

    data = _curves_data(sweep, runs)
    dims = sorted(data["latent_dim"].unique().tolist())
    rows: list[dict[str, str]] = []
    for variant, line in data.groupby("variant", sort=False):
        by_dim = cells(line, "latent_dim", 5)
        rows.append({"model": str(variant)} | {f"d = {d}": by_dim.get(d, "") for d in dims})
    if has_pca := any(d in sweep.pca for d in dims):
        rows.append({"model": "PCA"} | {f"d = {d}": f"{sweep.pca[d]:.5f}" if d in sweep.pca else "" for d in dims})
    caption = (
        f"{sweep.held_out} MSE per pixel of the reconstruction from the posterior mean at the last epoch (equations 32-33), "
        f"lower is better; mean ± standard deviation over {seeds(data)}. "
        + "PCA with d components is fitted to the training images, of which no linear autoencoder leaves less; of other images "
        "one may leave a little less. "
        * has_pca
        + "AE samples nothing: what is left of the gap to it is the price of a posterior."
    )
    missing = frame.say_missing(sweep, frame.missing_cells(sweep, runs))
    return Table("mse", "Reconstruction error", f"{caption} {missing}".strip(), data, pd.DataFrame(rows))


def pictures(sweep: "Sweep", runs: "pd.DataFrame", epoch_dims: Sequence[int]) -> list[Part]:
    """Figures 2 and 3 of finished runs, with their data."""
    from analysis import frame
    from analysis.exhibits import Picture

    stems = ("mse_curves", "Figure 2. MSE against the latent dimension"), ("mse_by_epoch", "Figure 3. MSE by epoch")

    def against_latents() -> "Picture":
        return Picture(
            *stems[0],
            f"{sweep.held_out} MSE per pixel at the last epoch; the bands are one standard deviation over seeds. The "
            "paper's axis runs from 0.010 to 0.0275, its VAE levels off at about 0.0175.",
            plot_mse_against_latents(runs, sweep.pca, sweep.held_out),
            _curves_data(sweep, runs),
        )

    def by_epoch() -> "Picture":
        epochs = frame.load_epochs(sweep, runs, [sweep.score("mse")])
        return Picture(
            *stems[1],
            f"{sweep.held_out} MSE per pixel after each epoch, d = {_listed(epoch_dims)}; the file of numbers has every d. "
            "The paper shows 50 epochs on an axis from 0.010 to 0.040.",
            plot_mse_by_epoch(epochs[epochs["latent_dim"].isin(epoch_dims)], sweep.held_out),
            frame.spread(epochs, [*frame.CURVE, "epoch"]).assign(held_out=sweep.held_out),
        )

    return [Part(*stem, make) for stem, make in zip(stems, (against_latents, by_epoch), strict=True)]


def _planned(
    sweep: "Sweep", runs: "pd.DataFrame", out: Path | None, epoch_dims: Sequence[int] | None
) -> tuple[Path, list[Part]]:
    """The folder, made, and the figures for it; raises AnalysisError."""
    from analysis import frame

    finished = frame.usable(runs, sweep.score("mse"))
    if finished.empty:
        missing = frame.say_missing(sweep, frame.missing_cells(sweep, runs))
        raise frame.AnalysisError(
            f"Sweep {sweep.name} has no finished run with a {sweep.score('mse')} to draw. {missing}".strip()
        )
    dims = choose_epoch_dims(finished["latent_dim"].unique().tolist(), epoch_dims)
    return command.output_folder(out, sweep.name), pictures(sweep, finished, dims)


def _curves_data(sweep: "Sweep", runs: "pd.DataFrame") -> "pd.DataFrame":
    """What mse_curves.csv holds: one row per variant and latent_dim."""
    from analysis import frame

    names = {"mean": "sample_mean", "sd": "sample_sd"}
    of_sample = frame.summary(runs, sweep.score("mse_sample")).rename(columns=names)[[*frame.CURVE, *names.values()]]
    data = frame.summary(runs, sweep.score("mse")).merge(of_sample, on=frame.CURVE, how="left")
    data["pca_test_mse"] = data["latent_dim"].map(sweep.pca)
    # Equal within a variant: configs that differ in more than latent_dim and seed are told apart in its name.
    data = data.merge(runs[[*frame.CURVE, "epochs"]].drop_duplicates(), on=frame.CURVE, how="left")
    return data.assign(held_out=sweep.held_out)


def _remarks(sweep: "Sweep", runs: "pd.DataFrame", epoch_dims: Sequence[int] | None) -> list[str]:
    """Sentences on what a reader of the figures would otherwise take for granted."""
    from analysis import frame

    finished = frame.usable(runs, sweep.score("mse"))
    missing = frame.missing_cells(sweep, runs)
    failed = missing[missing["state"].str.startswith("failed")]
    dims = choose_epoch_dims(finished["latent_dim"].unique().tolist(), epoch_dims)
    n_odd = int((runs["status"] == "FINISHED").sum()) - len(finished)
    n_short = int((finished["n_epochs"] < finished["epochs"]).sum())
    n_repeated = int((runs["n_runs"] > 1).sum())

    remarks = [frame.say_missing(sweep, missing)] if len(missing) else []
    remarks += [f"  {run.variant} d={run.latent_dim} seed={run.seed} {run.state}" for run in failed.itertuples()]
    if n_odd:
        remarks.append(f"Left out, as finished without a finite {sweep.score('mse')}: {n_odd}.")
    if n_short:
        remarks.append(f"Finished before the last epoch planned, and drawn as they are: {n_short}.")
    if n_repeated:
        remarks.append(f"Run more than once, of which the most advanced is drawn: {n_repeated}.")
    remarks += _say_inexact(finished)
    if epoch_dims is None and dims != list(PAPER_EPOCH_DIMS):
        remarks.append(f"mse_by_epoch shows d = {_listed(dims)}; --epoch-dims chooses others.")
    return remarks


def _say_inexact(runs: "pd.DataFrame") -> list[str]:
    """How many runs' last epochs were not what their configs promise, by what their configs say; nothing where none were."""
    rows = ((run["config"], {str(name): value for name, value in run.items()}) for _, run in runs.iterrows())
    said = [words for config, own in rows if (words := config.remark(own))]
    return [f"Draws of {len(said)} runs were not exact in the last epoch, as in one where {said[0]}."] if said else []


def _table(means: "pd.DataFrame") -> str:
    """The means as text, one row per latent dimension and one column per variant."""
    cells = [
        f"{mean:.5f} ± {sd:.5f} ({n})" if n > 1 else f"{mean:.5f} (1)"
        for mean, sd, n in zip(means["mean"], means["sd"], means["n_seeds"], strict=True)
    ]
    table = means.assign(cell=cells).pivot(index="latent_dim", columns="variant", values="cell").fillna("-")
    return table[means["variant"].unique()].rename_axis("d").reset_index().to_string(index=False)


def _dims(text: str) -> list[int]:
    try:
        dims = sorted({int(part) for part in text.split(",")})
    except ValueError:
        dims = []
    if not dims or dims[0] < 1 or len(dims) > MOST_EPOCH_DIMS:
        raise argparse.ArgumentTypeError(
            f"up to {MOST_EPOCH_DIMS} latent dimensions with commas between, as in 2,5,10; got {text!r}"
        )
    return dims


def _listed(dims: Sequence[int]) -> str:
    return ", ".join(str(d) for d in dims)


if __name__ == "__main__":
    sys.exit(main())
