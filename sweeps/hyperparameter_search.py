"""Find each model's best setting with Optuna, on validation images: ``python sweeps/hyperparameter_search.py --gpus 4``."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if __package__ in (None, ""):  # run as a script, from any folder
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from fishernet.interrupts import exit_at_once

    exit_at_once()

import fishernet
from analysis.papers import Preset
from fishernet import commands
from fishernet.config import Fields, TrialConfig, Values
from fishernet.data import DATASETS, check_dataset
from fishernet.families import FAMILIES, all_fields, family, trial_config, typed_value
from fishernet.flags import Listed, Parser
from fishernet.plan import MOST_RUNS, PlanError, SweepPlan, flagged, format_numbers, parse_numbers
from fishernet.spelling import did_you_mean
from fishernet.surroundings import entry_point
from sweeps.checkpoints import find_checkpoints
from sweeps.driver import Driver, duration
from sweeps.flags import EXIT_STATUS, UsageError, add_place_flags, add_record_flags, check_shared_flags
from sweeps.planning import (
    OURS,
    Devices,
    dataset_from_flag,
    import_models,
    model_overrides,
    refuse_idle,
    seeds_from_flag,
)
from sweeps.space import (
    MULTI_OBJECTIVE,
    SAMPLERS,
    Domain,
    SearchPlan,
    StudyPlan,
    can_matter,
    default_space,
    fixable,
    grid_size,
    make_study,
    middle,
    parse_domain,
    searched,
    storage_url,
)
from sweeps.tracking import SweepTracking

if TYPE_CHECKING:
    from fishernet.data.images import ImageData
    from sweeps.studies import Study, StudySearcher

DEFAULTS: Preset = {
    "models": OURS, "latent_dims": "10", "seeds": "3", "dataset": "fashion-mnist", "epochs": 50,
    "train_size": 0, "trials": 40, "sampler": "tpe", "sampler_seed": 0, "reduction_factor": 3,
}  # fmt: skip
RUNG_SHARE = 9  # the first rung is after a ninth of the epochs


@entry_point
def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0 all runs finished, 1 some failed, 2 bad usage, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return HyperparameterSearch(_parse(arguments), arguments).main(last=argv is None)


def make_parser(argv: Sequence[str] = ()) -> Parser:
    """Its flags, those of the models from outside that ``argv`` names among them."""
    usual = {
        *(
            "--models",
            "--latent-dims",
            "--trials",
            "--seeds",
            "--epochs",
            "--dataset",
            "--sampler",
            "--fix",
            "--gpus",
            "--name",
        ),
        *("--resume", "--storage-path", "--dry-run", "--learning-rate", "--batch-size", "--hidden-width"),
    }
    parser = Parser(
        name="search",
        usual=usual,
        description="Find each model's best setting with Optuna. Every trial is a suggested setting, trained with all "
        "the seeds and scored by their mean on "
        "images held out of training; the test set is not touched.",
        epilog=EXIT_STATUS,
    )
    try:
        import_models(argv)
    except PlanError as error:
        parser.error(str(error))
    _add_search_flags(parser)
    add_place_flags(parser)
    record = add_record_flags(parser, "search", "more trials or studies")
    record.add_argument(
        "--test-seeds", action=Listed, metavar="SEEDS",
        help="seeds of the runs in the plan of the best settings, written at the end (default: as many as --seeds, none of "
        "which the search has seen)",
    )  # fmt: skip
    return parser


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = make_parser(argv)
    args = parser.parse_args(argv)
    check_shared_flags(parser, args, "search", lambda: _flags_given(args))
    return args


def _add_search_flags(parser: argparse.ArgumentParser) -> None:
    """What is searched; every default is None, so that what was given can be told."""
    what = parser.add_argument_group("what is searched (one study for each of the models and latent dimensions)")
    what.add_argument(
        "--models", "--model", nargs="+", metavar="MODEL",
        help=f"any of {', '.join(FAMILIES)}, or a class from elsewhere as package.module:Class; MODEL:field=value,... fixes "
        "fields for that study alone (default: all but what is installed beside them)",
    )  # fmt: skip
    what.add_argument(
        "--latent-dims", "--latent-dim", action=Listed, metavar="DIMS",
        help=f"2,5,10 or 2-5: a study for each; 2..20: one study in which it is varied (default: {DEFAULTS['latent_dims']})",
    )  # fmt: skip
    for name, meaning in {
        "trials": "suggestions for each study",
        "seeds": "how many seeds each trial is trained with, or which: 3, or 0,1,7",
        "epochs": "epochs of a trial that is not stopped early",
        "dataset": TrialConfig.__dataclass_fields__["dataset"].metadata["meaning"],
        "train_size": "train on this many images; 0 is all that are not held out",
        "sampler": "; ".join(f"{name}: {meaning}" for name, meaning in SAMPLERS.items()),
        "sampler_seed": "seed of the suggestions",
        "reduction_factor": "of the trials that reach a rung, the best 1/N go on (ASHA)",
    }.items():
        what.add_argument(
            f"--{name.replace('_', '-')}", dest=name, metavar=name.upper(), action=Listed if name == "seeds" else "store",
            help=f"{meaning} (default: {DEFAULTS[name]})".replace("%", "%%"),
        )  # fmt: skip
    what.add_argument(
        "--validation-size", metavar="N",
        help="images held out of the end of the training set, on which trials are scored (default: 10,000 of (Fashion-)MNIST, "
        "else a sixth)",
    )  # fmt: skip
    what.add_argument(
        "--first-rung", metavar="EPOCHS",
        help=f"epochs before a trial can be stopped early; the next rungs are at this times --reduction-factor, its square, "
        f"...; as many as --epochs stops none (default: a {RUNG_SHARE}th of --epochs)",
    )  # fmt: skip
    what.add_argument(
        "--fix", action="append", metavar="NAME=VALUE", help="a field with this value in every trial; may be repeated"
    )
    space = parser.add_argument_group(
        "ranges (2..8, 1e-5..1e-2:log, 64..512:step=64, or values: 32,64)",
        "A field is varied in the studies of the models that have it.",
    )
    for name in searched():
        of_models = {model: text for model in FAMILIES if (text := default_space(model, ["kl"]).get(name))}
        default = ", ".join(dict.fromkeys(of_models.values())) or "not varied"
        if all_fields()[name].metadata["search_with"]:
            default += f" with {', '.join(MULTI_OBJECTIVE)}, else not varied"
        elif of_models and len(of_models) < len(FAMILIES):
            default += f" for {', '.join(of_models)}"
        space.add_argument(
            f"--{name.replace('_', '-')}", dest=name, metavar="RANGE",
            help=f"{all_fields()[name].metadata['meaning']} (default: {default})",
        )  # fmt: skip


def _flags_given(args: argparse.Namespace) -> list[str]:
    names = [*DEFAULTS, "validation_size", "first_rung", "fix", *searched()]
    return [f"--{name.replace('_', '-')}" for name in names if getattr(args, name) is not None]


def plan_from_flags(args: argparse.Namespace, validation_size: int) -> SearchPlan:
    """The search that the flags ask for; raises PlanError naming the flag, its meaning and the value."""

    def given(name: str) -> Any:
        return DEFAULTS[name] if getattr(args, name) is None else getattr(args, name)

    sampler = given("sampler")
    if sampler not in SAMPLERS:
        raise PlanError(f"--sampler is one of {', '.join(SAMPLERS)}; got {sampler!r}{did_you_mean(sampler, SAMPLERS)}")
    settings = {name: given(name) for name in ("epochs", "train_size")} | {"validation_size": validation_size}
    base = {"dataset": dataset_from_flag(given("dataset")), **settings}
    try:
        epochs = int(typed_value("epochs", settings["epochs"]))
    except ValueError as error:
        raise PlanError(flagged(str(error))) from None
    fixed = _fixed(args.fix or [])
    domains = {name: parse_domain(name, text) for name in searched() if (text := getattr(args, name)) is not None}
    if both := sorted({*fixed} & {*domains}):
        raise PlanError(
            f"--fix {both[0]}=... and --{both[0].replace('_', '-')} both say what {both[0]} is; leave one out"
        )
    studies = tuple(
        study
        for text in given("models")
        for study in _studies(text, given("latent_dims"), base, domains, fixed, sampler)
    )
    names = [study.name for study in studies]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise PlanError(f"two of the studies are named {repeated[0]}; leave one out, or search it under another --name")
    for name in {*domains, *fixed}:
        if not any(can_matter(name, study) for study in studies):
            flag = f"--fix {name}" if name in fixed else f"--{name.replace('_', '-')}"
            raise PlanError(f"{flag} changes nothing in {', '.join(names)}; leave it out")
    seeds = seeds_from_flag(str(given("seeds")))
    first_rung = _count(
        "--first-rung", args.first_rung or max(1, epochs // RUNG_SHARE), "epochs before a trial can be stopped"
    )
    plan = SearchPlan(
        studies, _count("--trials", given("trials"), "suggestions for each study"), tuple(seeds), sampler,
        _count("--sampler-seed", given("sampler_seed"), "the seed of the suggestions", least=0), first_rung,
        _count("--reduction-factor", given("reduction_factor"), "how many trials of a rung one goes on of", least=2),
    )  # fmt: skip
    if first_rung > epochs:
        raise PlanError(
            f"--first-rung {first_rung} comes after the last of --epochs {epochs}; {epochs} stops no trial early"
        )
    if plan.n_runs > MOST_RUNS:
        raise PlanError(f"studies x --trials x --seeds are {plan.n_runs:,} runs; a search has at most {MOST_RUNS:,}")
    return plan


def _studies(
    text: str, dims: str, base: Values, domains: Mapping[str, Domain], fixed: Values, sampler: str
) -> list[StudyPlan]:
    """One model's studies, from its word in --models."""
    overrides = model_overrides(text)
    model = overrides.pop("model")
    try:
        row = family(model)
    except ValueError as error:
        raise PlanError(flagged(str(error))) from None
    if locked := sorted(set(overrides) - set(fixable())):
        raise PlanError(f"--models {text}: {locked[0]} is the same in all studies, so it has a flag of its own")
    own = {name: domain for name, domain in domains.items() if name not in overrides}
    values = {**fixed, **overrides}
    kl_scored = sampler in MULTI_OBJECTIVE
    if kl_scored and (not row.posterior or values.get("sampler") == "cg"):
        why = "cg never forms M" if row.posterior else f"{model} has no posterior"
        raise PlanError(
            f"--sampler {sampler} scores the KL divergence from the prior, which {text} does not know: {why}; leave it out of "
            "--models, or choose another sampler"
        )
    if ".." in dims:
        own["latent_dim"], numbers = parse_domain("latent_dim", dims), [1]
    else:
        try:
            numbers = parse_numbers(dims)
        except ValueError as error:
            raise PlanError(f"--latent-dims: {error}; 2..20 varies it in one study") from None
    studies = [make_study(model, {**base, "latent_dim": d}, own, values, kl_scored=kl_scored) for d in numbers]
    refuse_idle(text, studies[0].base, [name for name in overrides if not can_matter(name, studies[0])])
    return studies


def _fixed(pairs: Sequence[str]) -> Fields:
    fixed: Fields = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or name not in fixable():
            raise PlanError(
                f"--fix takes NAME=VALUE, where NAME is one of {', '.join(fixable())}; got {pair!r}"
                + did_you_mean(name, fixable())
            )
        if name in fixed:
            raise PlanError(f"--fix names {name} twice")
        try:
            fixed[name] = typed_value(name, value.strip())
        except ValueError as error:
            raise PlanError(f"--fix: {error}") from None
    return fixed


def _count(flag: str, value: object, meaning: str, least: int = 1) -> int:
    if not str(value).strip().isdecimal() or not least <= int(str(value)) < 10**9:
        raise PlanError(f"{flag} is a whole number, {meaning}, at least {least}; got {value!r}")
    return int(str(value))


class HyperparameterSearch(Driver[SearchPlan]):
    """Optuna's studies, a trial of each a cohort of seeds."""

    kind, plan_class = "search", SearchPlan
    kept_flags = MappingProxyType({**Driver.kept_flags, "test_seeds": None})

    def asked(self) -> SearchPlan:
        self._check_test_seeds()
        plan = self._planned()
        self._check_test_seeds(plan)
        return plan

    def _planned(self) -> SearchPlan:
        size = self.args.validation_size
        if size is not None:
            return plan_from_flags(self.args, _count("--validation-size", size, "images held out to score trials on"))
        dataset = self.args.dataset or DEFAULTS["dataset"]
        usual = DATASETS[dataset].validation_size if dataset in DATASETS else 0  # of other data sets a sixth
        plan = plan_from_flags(self.args, usual or 1)  # what is wrong is said before data is read
        if usual:
            return plan
        check_dataset(plan.example.dataset)
        n_images = len(fishernet.load_data(plan.example.dataset, self.args.data_dir).train)
        return plan_from_flags(self.args, max(1, n_images // 6))

    def run(self, asked: SearchPlan | None) -> int:
        if asked is None:
            self._check_test_seeds()
        return super().run(asked)

    def _check_test_seeds(self, plan: SearchPlan | None = None) -> None:
        """Raises PlanError where they are no seeds, or some of those that the plan's trials are chosen by."""
        if self.args.test_seeds is None:
            return
        try:
            seeds = seeds_from_flag(self.args.test_seeds)
        except PlanError as error:
            raise PlanError(str(error).replace("--seeds", "--test-seeds")) from None
        if plan and (seen := set(seeds) & set(plan.seeds)):
            raise PlanError(
                f"--test-seeds are of the runs that show what the best settings are worth, and seeds {format_numbers(seen)} "
                f"help to choose these settings (--seeds {format_numbers(plan.seeds)}); name others, or leave the flag out"
            )

    def cohorts(self, plan: SearchPlan, devices: Devices, images: ImageData) -> list[Sequence[TrialConfig]]:
        return [
            plan.members(study, {name: middle(name, domain) for name, domain in study.space}, 0)
            for study in plan.studies
            for _ in range(plan.n_trials)
        ]

    def say_time(self, plan: SearchPlan, seconds: float, images: ImageData) -> str:
        said = f"{super().say_time(plan, seconds * plan.expected_share, images)} at the middle of its ranges"
        return said + (f"; {duration(seconds)} if no trial were stopped early" if plan.expected_share < 1 else "")

    def details(self, plan: SearchPlan) -> list[str]:
        lines = []
        for study in plan.studies:
            lines.append(f"space      {study.name}: {', '.join(f'{field} {domain}' for field, domain in study.space)}")
            if (n := grid_size(study.space)) <= plan.n_trials:
                lines.append(f"           that is {n:.0f} settings in all: some will be tried more than once")
        return lines

    def places(self) -> dict[str, str]:
        return {**super().places(), "optuna": storage_url(self.storage)}

    def jobs(self, plan: SearchPlan, tracking: SweepTracking, images: ImageData) -> StudySearcher:
        from sweeps import studies

        self._check_test_seeds(plan)
        known, runs = bool(tracking.plan), tracking.found
        try:
            opened = studies.open_studies(plan, tracking.begun_as, self.storage, known=known, trained=bool(runs))
            studies.make_sampler(plan, 0)
            with studies.sentences(self.storage):
                checkpoints = find_checkpoints(self.folder)
                searcher = studies.StudySearcher(opened, runs, checkpoints, self.job_fields, images.held_out)
        except studies.StudiesError as error:
            raise UsageError(str(error)) from None
        self.opened, self.plan = opened, plan
        return searcher

    def draw(self, name: str) -> None:
        """Print each study's counts and best setting, write the plan of the best, draw the figures."""
        from analysis.figures.search import draw

        with self.parts.part("best_plan", lambda why: print(f"no plan of the best settings: {why}\n")):
            self._print_best(name)
        self.parts.n += draw(name, self.uri, self.folder / "figures").n
        print()

    def _print_best(self, name: str) -> None:
        from sweeps import studies

        try:
            with studies.sentences(self.storage):
                lines = [study.summary() for study in self.opened]
                plan = best_plan(self.plan, self.opened, self.args.test_seeds)
        except studies.StudiesError as error:
            raise UsageError(str(error)) from None
        print("", *lines, sep="\n")
        if plan:
            file = self.folder / "best.json"
            plan.write(file)
            words = ["--plan", str(file), "--name", f"{name}-tuned", *self.kept_words(leave_out=("test_seeds",))]
            print("\nthe best settings beside the usual ones, to be trained again and scored on the test set:")
            print(f"  {shlex.join([*commands.driver('sweep'), *words])}\n")

    def ui_command(self) -> str:
        return f"{super().ui_command()}\nlook at the studies: {shlex.join(['optuna-dashboard', storage_url(self.storage)])}"


def best_plan(plan: SearchPlan, studies: Sequence[Study], test_seeds: str | None) -> SweepPlan | None:
    """Of each study with a completed trial the best setting and the model's usual one, on all training images; None without."""
    fresh = range(max(plan.seeds) + 1, max(plan.seeds) + 1 + len(plan.seeds))
    seeds = seeds_from_flag(test_seeds) if test_seeds else list(fresh)
    configs = []
    for study in studies:
        base, best = study.plan.base, study.best()
        if best is None:
            continue
        tuned = {**base.to_dict(), **best.params, "validation_size": 0, "setting": base.named("tuned")}
        usual = {
            name: getattr(base, name) for name in ("model", "dataset", "epochs", "train_size", *base.names("choice"))
        }
        usual["latent_dim"] = tuned["latent_dim"]
        configs += [trial_config({**values, "seed": seed}) for values in (usual, tuned) for seed in seeds]
    return SweepPlan(tuple(configs)) if configs else None


if __name__ == "__main__":
    sys.exit(main())
