"""Every figure and table of a sweep's runs, and of a paper's claims a verdict each: one page, and its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

from analysis import command, exhibits, figures, frame, page, scores
from analysis.errors import AnalysisError
from analysis.exhibits import Exhibit
from analysis.figures import FIGURES, SECTIONS, search
from analysis.frame import Sweep, missing_cells, say_missing
from analysis.page import Section
from analysis.papers import Arguments
from analysis.parts import Failures
from analysis.scores import SCORES
from analysis.scores.images import chosen_features
from analysis.scores.tasks import one_ray
from analysis.stored import StoredSweep
from analysis.which_dimension import cautions
from fishernet.services import mlflow_store, schema
from fishernet.wording import grouped

PAGE = "report.html"
ARTIFACTS = "report"  # folder of the parent run's artifacts


def report(
    name: str | None = None, tracking_uri: str | None = None, out: Path | None = None, *, data_dir: str | None = None,
    seed: int | None = None, paper: str | None = None, search: str | None = None,
    scores: Mapping[str, Arguments] | None = MappingProxyType({}),
) -> Failures:  # fmt: skip
    """Compute what is missing, write the page and its files, log them to the sweep's parent run, print where they are.

    Defaults are the flags'; ``scores`` are arguments of rows of SCORES, None computes none. A part that fails in a way that
    nobody foresaw is counted; the page is there with all others.
    """
    sweep = frame.find_sweep(name, tracking_uri or mlflow_store.default_tracking_uri())
    searched = frame.find_sweep(search, sweep.uri, kind="search") if search else None
    stored = StoredSweep(sweep, data_dir=data_dir, seed=seed, paper=paper)
    print(f"sweep {sweep.name}: {len(stored.runs)} of {len(sweep.configs)} planned runs have finished")
    if sweep.moved:
        print(sweep.moved)
    folder = command.output_path(out, sweep.name, "report")
    stored.failures = failures = Failures(folder)
    if scores is not None:
        print(
            "first come the scores that runs lack, computed from the stored weights once: a second to some minutes of a core for "
            "each run; `fishernet report --no-scores` leaves them out",
            flush=True,
        )
    said = {} if scores is None else compute(stored, scores)
    remarks = [sentence for sentences in said.values() for sentence in sentences]
    drawn = sections(stored, searched)
    if stored.paper is None:
        drawn, why_absent = without_absent(drawn)
        remarks += why_absent
    command.output_folder(out, sweep.name, "report")
    made, paths = [], []
    for section in drawn:  # what cannot be written could not be shown either
        written = [command.written(exhibit, folder, failures) for exhibit in section.exhibits]
        paths += [path for _, files in written for path in files]
        made.append(replace(section, exhibits=[exhibit for exhibit, _ in written]))
    shown = [exhibit for section in made for exhibit in section.exhibits]
    in_place = [exhibit.why for exhibit in shown if isinstance(exhibit, exhibits.Absent)]
    remarks = each_once(remarks, in_place)
    above: list[str] = []
    about: dict[str, str] = {}
    with failures.part("introduction", remarks.append):
        above = introduction(stored)
    with failures.part("facts", remarks.append):
        about = facts(stored)
    html = page.render(_title(stored), above, about, made, remarks)
    with command.writing_to(folder):
        (folder / PAGE).write_text(html, encoding="utf-8")
    try:
        files = mlflow_store.files_of(sweep.uri, sweep.parent_run_id)
        for path in [folder / PAGE, *paths]:
            files.log_artifact(str(path), ARTIFACTS)
    except mlflow_store.failures() as error:
        print(f"The report could not be logged to the sweep's run in MLflow: {error}.")
    absent = [(exhibit.title, exhibit.why) for exhibit in shown if isinstance(exhibit, exhibits.Absent)]
    for titles, why in grouped(absent, "figures"):
        print(f"{titles}: not drawn. {why}")
    for exhibit in shown:
        if isinstance(exhibit, exhibits.Table) and exhibit.stem == "claims":
            print(exhibit.shown[["claim", "verdict"]].to_string(index=False))
    for remark in remarks:
        print(remark)
    print(f"\n{folder / PAGE}, and {len(paths)} files of its figures and tables beside it")
    return failures


def each_once(remarks: Sequence[str], elsewhere: Sequence[str] = ()) -> list[str]:
    """Without those that another, or one of ``elsewhere``, says too."""
    own = list(dict.fromkeys(remarks))
    return [r for r in own if not any(r in other for other in [*elsewhere, *own] if other != r) and r not in elsewhere]


def compute(stored: StoredSweep, asked: Mapping[str, Arguments]) -> dict[str, list[str]]:
    """All scores that the runs lack, rows of SCORES with the arguments in ``asked``; by row a sentence for each part that cannot
    be had.
    """
    said: dict[str, list[str]] = {name: [] for name in SCORES}
    wanted = stored.paper.arguments if stored.paper else {}
    with one_ray():
        for name in (name for name, row in SCORES.items() if row.usual or name in wanted):
            with stored.failures.part(name, said[name].append):
                said[name] += scores.ensure(stored, name, **asked.get(name, {}))
    stored.reasons |= {name: sentences[0] for name, sentences in said.items() if sentences}
    if said["distances"]:
        features, weights, gpus = (asked.get("distances", {}).get(n) for n in ("features", "inception_weights", "gpus"))
        with suppress(AnalysisError):
            stored.reasons[chosen_features(stored, features or "auto", weights, gpus)] = said["distances"][0]
    return said


def sections(stored: StoredSweep, searched: Sweep | None = None) -> list[Section]:
    """The report's parts; what cannot be shown stands in its place with the reason. ``searched``: a search shown as well."""
    made: dict[str, list[Exhibit]] = {title: [] for title in SECTIONS}
    for name, row in FIGURES.items():
        asked = stored.paper is not None and bool({name, *row.scores} & set(stored.paper.arguments))
        if (row.section != "Claims" or stored.paper) and (asked or not row.on_request):
            shown = stored.failures.exhibits(row.stem, row.title, partial(figures.parts, stored, name))
            if row.usual or asked or not all(isinstance(exhibit, exhibits.Absent) for exhibit in shown):
                made[row.section] += command.of_paper(stored.paper, shown)
    made["Tuning"] += tuning(stored, searched)
    first = ("mse_curves", "which_dimension")  # the answer in a picture, and then in words
    made["Reconstruction"].sort(key=lambda exhibit: first.index(exhibit.stem) if exhibit.stem in first else len(first))
    return [Section(title, SECTIONS[title], shown) for title, shown in made.items() if shown]


def without_absent(drawn: Sequence[Section]) -> tuple[list[Section], list[str]]:
    """The sections with what could be drawn, and a sentence for each reason why other figures could not."""
    reasons: list[tuple[str, str]] = []
    kept = []
    for section in drawn:
        there = [exhibit for exhibit in section.exhibits if not isinstance(exhibit, exhibits.Absent)]
        reasons += [(e.title, e.why) for e in section.exhibits if isinstance(e, exhibits.Absent)]
        kept += [replace(section, exhibits=there)] if there else []
    return kept, [f"{titles}: not drawn. {why}" for titles, why in grouped(reasons, "figures")]


def tuning(stored: StoredSweep, searched: Sweep | None) -> list[Exhibit]:
    """Tuned against usual settings, where the sweep trained both: nobody misses them elsewhere. And what the search found."""
    kept = stored.failures.exhibits
    made: list[Exhibit] = []
    if stored.runs["setting"].map(search.is_tuned).any():
        made += kept("tuned_settings", "Paper setting against tuned setting", lambda: search.tuning(stored, searched))
    if searched:
        made += kept("best_settings", "Best settings", lambda: search.search_parts(searched))
    return made


def introduction(stored: StoredSweep) -> list[str]:
    """What the reader looks at, and what is missing."""
    epochs = sorted(stored.runs["epochs"].unique().tolist())
    trained = f"{epochs[0]} epochs" if len(epochs) == 1 else f"{epochs[0]} to {epochs[-1]} epochs"
    seeds = stored.runs["seed"].nunique()
    dims = ", ".join(str(d) for d in sorted(stored.runs["latent_dim"].unique()))
    text = (
        f"{len(stored.runs)} runs of {', '.join(stored.variants)}, d = {dims}, {seeds} seed{'s' * (seeds > 1)}, {trained}, "
        f"on {stored.sweep.configs[0].dataset}. Spreads are standard deviations over seeds."
    )
    if stored.paper:
        text += f" Numbers that the {stored.paper.name} gives ({stored.paper.citation}) stand beside these."
    missing = say_missing(stored.sweep, missing_cells(stored.sweep, stored.all_runs))
    return list(filter(None, [text, say_dimensions(stored), missing]))


def say_dimensions(stored: StoredSweep) -> str:
    """Which latent dimension each line needs, and what may change that; empty where there is one alone."""
    found = [
        f"{a.variant} {a.dim}{' or more' if a.dim == a.largest else ''}"
        + (f" (its curve bends at {a.bend})" if a.bend not in (None, a.dim) else "")
        for a in stored.dimensions
        if a.dim is not None
    ]
    undecided = grouped(((a.variant, a.reason) for a in stored.dimensions if a.dim is None), "lines")
    found += [
        f"not decided for {lines}, {'' if lines in stored.variants else 'each of '}which {reason}"
        for lines, reason in undecided
    ]
    rule = "The latent dimension that a line, one model with its options, needs by the one-standard-error rule"
    return " ".join([f"{rule}: {'; '.join(found)}.", *cautions(stored.dimensions)]) if found else ""


def _title(stored: StoredSweep) -> str:
    if stored.paper is None:
        return f"{stored.sweep.name}: what was swept"
    return f"{stored.sweep.name}: the {stored.paper.name}'s figures and tables"


def facts(stored: StoredSweep) -> dict[str, str]:
    """How the sweep was made, from its parent run."""
    sweep, config = stored.sweep, stored.sweep.configs[0]
    found = {
        "Sweep": sweep.name,
        "Command": sweep.tags.get(schema.COMMAND, ""),
        "Runs": f"{len(stored.runs)} finished of {len(sweep.configs)} planned",
        "Images": f"{config.dataset}, fingerprint {sweep.plan.get('data_fingerprint', 'unknown')}, scored on {sweep.held_out}",
        "Commit": sweep.tags.get(schema.COMMIT, ""),
        "Machine": _listed(schema.json_tag(sweep.tags, schema.MACHINE)),
        "Versions": _listed(schema.json_tag(sweep.tags, schema.VERSIONS)),
        "Parent run": sweep.parent_run_id,
    }
    return {name: value for name, value in found.items() if value}


def _listed(facts: Mapping[str, object]) -> str:
    """``{"torch": "2.15"}`` as ``torch 2.15``."""
    return ", ".join(f"{name} {value}" for name, value in facts.items() if value)
