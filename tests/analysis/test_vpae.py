"""The VPAE paper's lines are its rows, with its counts of parameters; its claims follow from planted truths."""

from itertools import product

import pytest

from analysis.papers import published
from analysis.papers.vpae import CNN_DIM, COSTLY, DIM, PAPER, SHARED, TABLE_1, TABLE_2, flag
from fishernet.families import family, trial_config
from fishernet.likelihoods import n_outputs
from sweeps.latent_sweep import _parse
from sweeps.planning import plan_from_flags

TABLES = ((1, TABLE_1, DIM), (2, TABLE_2, CNN_DIM))
PUBLISHED = {dataset: published.tables(PAPER, dataset)["outputs"] for dataset in ("mnist", "fashion-mnist")}
SHAPE = (1, 28, 28)


def config_of(line, d=DIM):
    return trial_config({**SHARED, **line, "latent_dim": d})


def planned(*words):
    return plan_from_flags(_parse(words)).configs


def test_presets_are_the_lines_of_the_tables_and_each_is_a_line_of_its_own():
    for preset, lines, d in (("vpae", TABLE_1, DIM), ("vpae-cnn", TABLE_2, CNN_DIM)):
        cheap = [config_of(fields, d) for line, fields in lines.items() if line not in COSTLY]
        configs = planned("--preset", preset)
        assert [c for c in configs if c.seed == 0] == cheap
        assert len(configs) == 5 * len(cheap)
        assert len({c.variant for c in cheap}) == len(cheap) == {"vpae": 23, "vpae-cnn": 12}[preset]
    asked = planned("--preset", "vpae", "--models", *(flag(TABLE_1[line]) for line in COSTLY), "--seeds", "1")
    assert [c.scale for c in asked] == ["full", "full"]


def test_what_is_published_is_of_these_lines():
    for dataset, (number, lines, d) in product(PUBLISHED, TABLES):
        own = PUBLISHED[dataset][PUBLISHED[dataset]["table"] == number].set_index(["row", "components"])
        # One cell of Table 2 cannot be read for certain.
        unread = {("T_df_mu_U_V", 1)} if (number, dataset) == (2, "mnist") else set()
        assert set(own.index) == set(lines) - unread
        for line in own.index:
            assert own.at[line, "variant"] == config_of(lines[line], d).variant
            assert own.at[line, "latent_dim"] == d


@pytest.mark.parametrize(("number", "line"), [(n, line) for n, lines, _ in TABLES for line in lines])
def test_a_line_has_as_many_parameters_as_the_paper_says(number, line):
    lines, d = {1: (TABLE_1, DIM), 2: (TABLE_2, CNN_DIM)}[number]
    config = config_of(lines[line], d)
    own = PUBLISHED["fashion-mnist"]
    told = own[(own["table"] == number) & (own["row"] == line[0]) & (own["components"] == line[1])]["parameters"].item()
    if line in COSTLY:  # 10 million numbers, which are counted without being made
        assert (DIM + 1) * n_outputs(config, SHAPE) + (784 + 1) * DIM == told
        return
    model = family(config.model).load()([config], SHAPE, 10)
    assert sum(parameter.numel() for parameter in model.parameters()) == told
