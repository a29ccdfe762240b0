"""Intervals are Student's and Fieller's, words follow from intervals and runs, and chance seldom makes a false one."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.exhibits import as_text, write
from analysis.verdicts import (
    ABOVE,
    BELOW,
    CONFIDENCE,
    Claim,
    Comparison,
    Evidence,
    Finding,
    Scope,
    by_what,
    compare,
    conclude,
    difference,
    fieller,
    holm,
    table,
    what_remains,
)

ANY_RUNS = Scope()
INSIDE, BEYOND, BOTH = (1.0, 1.1, 1.2), (-1.0, -1.1, -1.2), (-1.0, 0.1, 1.0)
WORDS = {
    "confirmed": Comparison("", ABOVE, INSIDE),
    "undecided": Comparison("", ABOVE, BOTH),
    "too short": Comparison("", ABOVE, INSIDE, short=(("VAE", 12, 50),)),
    "not asked of these data": Comparison(
        "", ABOVE, INSIDE, apart=(("images of digits", ""),), short=(("VAE", 12, 50),)
    ),
    "contradicted": Comparison("", ABOVE, BEYOND),
}


def evidence_of(values, scope=ANY_RUNS, **columns):
    """Runs (variant, d) with values over seeds of metric x."""
    rows = [
        {"run_id": f"{variant}{d}{seed}", "variant": variant, "latent_dim": d, "seed": seed, "epochs": 1, "x": x}
        for (variant, d), of_cell in values.items()
        for seed, x in enumerate(of_cell)
    ]
    return Evidence(pd.DataFrame(rows).assign(**columns), pd.DataFrame(), scope=scope)


def drawn(difference, n=4, seed=0):
    """Two variants whose runs of equal seed share an effect many times their difference."""
    rng = np.random.default_rng(seed)
    shared, noise = rng.standard_normal(n), 0.02 * rng.standard_normal((2, n))
    return {("A", 2): shared + difference + noise[0], ("B", 2): shared + noise[1]}


# words


@pytest.mark.parametrize("word", WORDS)
def test_a_comparison_has_the_word_of_its_runs_before_that_of_its_interval(word):
    assert WORDS[word].verdict == word
    apart = replace(WORDS[word], apart=(("learning_rate 1", "VAE"),))
    assert apart.verdict == "not asked of these data"
    assert apart.reading == WORDS[word].reading  # which is still said


def test_a_conjunction_takes_the_first_word_of_its_comparisons():
    """One comparison of the right runs is enough to contradict; else what keeps one undecided keeps all."""
    order = ["contradicted", "not asked of these data", "too short", "undecided", "confirmed"]
    for i, word in enumerate(order):
        for other in order[i:]:
            assert conclude([WORDS[other], WORDS[word], WORDS[other]]) == word
    assert conclude([]) == "undecided"


def test_a_comparison_says_why_it_is_not_decided():
    assert WORDS["undecided"].why == "the interval reaches across the bound"
    assert WORDS["too short"].why == "12 epochs (VAE), where the claim is about 50"
    assert WORDS["not asked of these data"].why == "images of digits"
    assert WORDS["confirmed"].why == WORDS["contradicted"].why == ""
    assert Comparison("", ABOVE, (1.0,), lacking=(("VAE", 2),)).why == "not enough runs"
    assert Comparison("", ABOVE, (1.0,), unscored=("clusters/trace",)).why == "too few runs have clusters/trace"


def test_what_was_never_trained_is_said_to_be_that_and_not_to_lack_seeds():
    evidence = evidence_of({("A", 2): [1, 2, 1], ("A", 4): [1, 2], ("B", 2): [1, 1.1, 1.2]})
    failed = pd.DataFrame([("A", 16, 0, "failed")], columns=["variant", "latent_dim", "seed", "state"])
    evidence = replace(evidence, failed=failed)
    parts = [
        difference(evidence, "x", ("A", 2), other, BELOW)
        for other in (("B", 2), ("A", 4), ("A", 8), ("A", 10), ("B", 8), ("A", 16))
    ]
    shown = Finding(parts, conclude(parts)).text()
    assert "1 interval reaches across the bound" in shown
    assert "3 not trained (A at d = 8, 10; B at d = 8); 2 with fewer than 3 seeds, " in shown
    alone = Finding(parts[2:3], conclude(parts[2:3])).text()
    assert "Not trained: A at d = 8." in alone


def test_a_region_decides_by_the_whole_interval():
    values = (0.9, 1.0, 1.1)
    low, high = Comparison("", ABOVE, values).interval
    assert Comparison("", (low - 1e-9, high + 1e-9), values).verdict == "confirmed"
    for region in ((low + 1e-9, math.inf), (-math.inf, high - 1e-9)):  # reaches across
        assert Comparison("", region, values).verdict == "undecided"
        assert Comparison("", region, values).reading == "reaches across"
    for region in ((high, math.inf), (-math.inf, low)):  # lies beyond
        assert Comparison("", region, values).verdict == "contradicted"
    for few in (values[:2], values[:1], ()):
        assert Comparison("", ABOVE, few).verdict == "undecided"
        assert Comparison("", ABOVE, few).reading == ""


def test_between_what_is_claimed_and_what_is_denied_nothing_is_decided():
    values = (0.39, 0.40, 0.41)
    low, high = Comparison("", ABOVE, values).interval
    assert Comparison("", (0.5, math.inf), values, denied=(-math.inf, 0.25)).verdict == "undecided"
    assert Comparison("", (0.5, math.inf), values, denied=(-math.inf, high)).verdict == "contradicted"
    assert Comparison("", (low - 1e-9, math.inf), values, denied=(-math.inf, 0.25)).verdict == "confirmed"


@pytest.mark.parametrize("number", [np.float64, np.float32, np.int64, float, int])
def test_numbers_of_numpy_decide_as_pythons_do(number):
    """numpy.False_ is not False: what is decided must not ask."""
    for values, word in (((4, 5, 4), "confirmed"), ((-4, -5, -4), "contradicted"), ((-1, 2, 0), "undecided")):
        part = Comparison("", (number(0), np.float64(np.inf)), np.array(values).astype(number))
        assert conclude([part]) == part.verdict == word
        assert {type(value) for value in (*part.values, *part.claimed, *part.interval, part.mean)} == {float}
    evidence = evidence_of({("A", 2): [1, 2, 1], ("B", 2): [8, 9, 9]}, epochs=number(12))
    evidence.runs["x"] = evidence.runs["x"].astype(number)
    short = difference(replace(evidence, scope=Scope(epochs=number(50))), "x", ("A", 2), ("B", 2), BELOW)
    assert (short.reading, short.verdict) == ("holds", "too short")
    assert difference(evidence, "x", ("A", 2), ("B", 2), ABOVE).verdict == "contradicted"


def test_the_scope_says_which_runs_count():
    def apart(runs, held_out):
        return [(f"width {width}", v) for v, width in zip(runs["variant"], runs["width"], strict=True) if width != 8]

    evidence = evidence_of(drawn(-1), Scope(10, apart), width=8, epochs=10)
    assert difference(evidence, "x", ("A", 2), ("B", 2), BELOW).verdict == "confirmed"
    shorter = replace(evidence, runs=evidence.runs.assign(epochs=9))
    assert difference(shorter, "x", ("A", 2), ("B", 2), BELOW).short == (("A", 9, 10), ("B", 9, 10))
    of_b = evidence.runs["variant"] == "B"
    wider = replace(shorter, runs=shorter.runs.assign(width=evidence.runs["width"].where(~of_b, 16)))
    part = difference(wider, "x", ("A", 2), ("B", 2), BELOW)
    assert (part.verdict, part.reading, set(part.apart)) == ("not asked of these data", "holds", {("width 16", "B")})
    alone = compare("A", replace(wider, scope=Scope(0, apart)), [("x", ("A", 2))], lambda x: x, (-9, 9))
    assert alone.verdict == "confirmed"  # the runs of B have no part in it
    assert by_what([("width 16", "A"), ("images", ""), ("width 16", "B")]) == ["width 16 (A, B)", "images"]


def test_the_table_says_the_verdict_everywhere_it_is_written(tmp_path):
    claims = [
        Claim(word, "It is above 0.", lambda evidence, part=part: Finding([part], conclude([part])))
        for word, part in WORDS.items()
    ]
    failed = pd.DataFrame([("CVAE", 2, 0, "failed")], columns=["variant", "latent_dim", "seed", "state"])
    made = table("Claims", claims, Evidence(pd.DataFrame(), pd.DataFrame(), failed=failed), str, ["A remark."])
    assert (
        made.shown["verdict"].tolist()
        == made.data["verdict"].tolist()
        == made.data["comparison"].tolist()
        == list(WORDS)
    )
    assert made.data["interval"].tolist() == ["holds", "reaches across", "holds", "holds", "contrary"]
    assert made.data["mean"].notna().all()
    assert "1.10 [0.85, 1.35], 3 seeds" in made.shown["these runs show"].iloc[2]
    assert made.caption.startswith("A remark. 1 run failed or stopped and gave no number: CVAE d = 2 (1);")
    write(made, tmp_path)
    for text in ((tmp_path / "claims.csv").read_text(), (tmp_path / "claims.tex").read_text(), as_text(made)):
        assert all(text.count(word) >= 2 for word in WORDS)


def test_a_page_has_a_short_sentence_a_claim_and_the_numbers_unfold():
    holds, contrary = WORDS["confirmed"], WORDS["contradicted"]
    untrained = replace(holds, values=(), lacking=(("A", 2),), untrained=(("A", 2),))
    finding = Finding([holds, contrary, untrained], "contradicted", {"Beside": [holds]})
    claims = [Claim(id, "It is above 0.", lambda evidence: finding) for id in ("A1", "A2")]
    made = table(
        "Claims", claims, Evidence(pd.DataFrame(), pd.DataFrame()), lambda variants, dims: f"`train {variants} {dims}`."
    )
    assert made.unfolding
    brief, said = made.unfolding.shown["these runs show"].iloc[0], made.shown["these runs show"].iloc[0]
    assert brief.startswith("1 of 3 comparisons hold; 1 contrary; 1 not trained (A at d = 2); ")
    assert brief.count("[") == 1
    assert "train" not in brief.replace("not trained", "")
    assert said.startswith(brief.rpartition("; ")[0])
    assert "`train" not in said
    numbers = made.unfolding.table
    assert numbers["claim"].tolist() == ["A1"] * 3 + ["A2"] * 3  # without what was not trained
    assert numbers["comparison"].tolist()[2].startswith("Beside: ")
    assert numbers["interval"].tolist()[:3] == ["holds", "contrary", "holds"]
    assert numbers["mean [95% interval]"].tolist()[0] == holds.number
    assert made.unfolding.notes == []
    assert list(made.commands) == ["With --seeds 3, `train ['A'] [2]`."]  # once for all claims
    assert as_text(made).endswith(f"\n{made.commands[0]}\n")  # in one line


# intervals


@pytest.mark.parametrize("n", [3, 5, 20])
def test_the_interval_is_that_of_the_paired_t_test(n):
    rng = np.random.default_rng(n)
    a, b = rng.standard_normal((2, n))
    evidence = evidence_of({("A", 2): a, ("B", 2): b})
    shuffled = replace(evidence, runs=evidence.runs.sample(frac=1, random_state=1))
    part = difference(shuffled, "x", ("A", 2), ("B", 2), BELOW)
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert part.interval == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert part.mean == pytest.approx((a - b).mean(), rel=1e-12)


def test_a_pair_of_runs_of_equal_seed_decides_what_unpaired_runs_cannot():
    values = drawn(-0.2)
    evidence = evidence_of(values)
    assert difference(evidence, "x", ("A", 2), ("B", 2), BELOW).verdict == "confirmed"
    unpaired = stats.ttest_ind(*values.values(), equal_var=False).confidence_interval()
    assert unpaired.low < 0 < unpaired.high
    seeds = evidence.runs["seed"].where(evidence.runs["variant"] != "B", (evidence.runs["seed"] + 1) % 4)
    shuffled = replace(evidence, runs=evidence.runs.assign(seed=seeds))
    assert difference(shuffled, "x", ("A", 2), ("B", 2), BELOW).verdict == "undecided"


def test_seeds_that_do_not_pair_are_runs_that_are_lacking():
    evidence = evidence_of(drawn(-1, n=6))
    halves = replace(evidence, runs=evidence.runs[(evidence.runs["variant"] == "A") == (evidence.runs["seed"] < 3)])
    part = difference(halves, "x", ("A", 2), ("B", 2), BELOW)
    assert part.values == ()
    assert part.lacking == (("A", 2), ("B", 2))


def test_a_number_per_seed_may_combine_any_columns():
    runs = pd.DataFrame(
        {"variant": "A", "latent_dim": 2, "seed": [3, 1, 2], "epochs": 1, "x": [6.0, 2.0, 0.0], "y": [3.0, 2.0, 0.0]}
    )
    evidence = Evidence(runs, pd.DataFrame())
    part = compare("x / y", evidence, [("x", ("A", 2)), ("y", ("A", 2))], lambda x, y: x / y, ABOVE)
    assert part.values == (1.0, 2.0)  # by seed, without 0 / 0
    ratio = compare("x / y", evidence, [("x", ("A", 2)), ("y", ("A", 2))], lambda x, y: x, ABOVE, of=lambda x, y: y)
    assert (ratio.values, ratio.of) == ((2.0, 0.0, 6.0), (2.0, 0.0, 3.0))
    assert ratio.mean == 8 / 5


def test_numbers_show_two_digits_of_the_interval_but_no_more_than_three_of_the_mean():
    part = Comparison("A − B, d = 5", BELOW, (-2.0e-4, -2.1e-4, -2.2e-4))
    low, high = part.interval
    assert str(part) == f"A − B, d = 5: −0.000210 [−{-low:.6f}, −{-high:.6f}], 3 seeds"
    assert str(Comparison("A", BELOW, (-25.44,))) == "A: −25.4, 1 seed"
    assert str(Comparison("A", BELOW, (-2544.0,))) == "A: −2544, 1 seed"
    assert str(Comparison("A", ABOVE, (0.98761, 0.98762, 0.98763))) == "A: 0.988 [0.988, 0.988], 3 seeds"
    assert str(Comparison("A", ABOVE, (-1.0, 0.0, 1.0))) == "A: 0.0 [−2.5, 2.5], 3 seeds"
    assert str(Comparison("A", BELOW, (0.0, 0.0, 0.0))) == "A: 0 [0, 0], 3 seeds"
    assert str(Comparison("share", ABOVE, (0.5, 0.6, 0.7), (1.0, 1.1, 1.2))) == "share: 55% [41%, 63%], 3 seeds"
    assert str(Comparison("share", ABOVE, (0.5,), (1.0,))) == "share: 50.0%, 1 seed"
    for of in ((1.0, -1.0, 0.5), (-1.0, -1.1, -1.2)):
        assert str(Comparison("share", ABOVE, (0.5, 0.6, 0.7), of)) == "share: none, as the gain may be none, 3 seeds"
    assert str(Comparison("share", ABOVE, (0.5,), (-1.0,))) == "share: none, as the gain may be none, 1 seed"


@pytest.mark.parametrize("n", [3, 5, 20])
def test_fiellers_limits_are_the_ratios_that_the_paired_t_test_just_rejects(n):
    rng = np.random.default_rng(n)
    of = 5 + 0.2 * rng.standard_normal(n)
    values = 0.4 * of + 0.2 * rng.standard_normal(n)
    low, high = fieller(values, of)
    assert low < values.mean() / of.mean() < high
    for limit in (low, high):
        assert stats.ttest_1samp(values - limit * of, 0).pvalue == pytest.approx(1 - CONFIDENCE, rel=1e-6)
    assert fieller(7 * values, 7 * of) == pytest.approx((low, high))


def test_a_share_of_a_gain_that_may_be_none_has_no_limits():
    values = np.array([1.0, 1.1, 0.9])
    half = stats.t.ppf(0.975, 2) * values.std(ddof=1) / math.sqrt(3)
    for shift, bounded in ((half + 1e-6, True), (half - 1e-6, False), (-3.0, False)):
        low, high = fieller(values, values - 1 + shift)
        assert (math.isfinite(low), math.isfinite(high)) == (bounded, bounded), shift


def test_holms_correction_is_that_of_the_textbook():
    """At 2.5%: 0.006 <= 0.025/4, 0.008 <= 0.025/3, 0.013 > 0.025/2, and what follows is not looked at."""
    assert holm({20: 0.006, 2: 0.008, 5: 0.013, 10: 0.024}) == [2, 20]
    assert holm({2: 0.007, 5: 0.008, 10: 0.008, 20: 0.001}) == [2, 5, 10, 20]
    assert holm({2: 0.007, 5: 0.001}) == [2, 5]
    assert holm({2: 0.013, 5: 0.013}) == []
    assert holm({}) == []


# How often chance alone makes a word. The spreads are those of docs/results/fashion-mnist/mse.csv: 0.0003 of a run's MSE over
# seeds, and gains of 0.001 at d = 2 to 0.0028 at d = 20. What runs of equal seed share cancels: nothing, or most of it.

SPREAD = 0.0003
PAIRED = 0.3 * SPREAD
GAINS = np.linspace(0.0010, 0.0028, 19)


def sweeps(share, dims, n_seeds, n_sweeps, spread, seed=0):
    """Of each sweep the shares of a gain at each d, of which ``share`` really remains: rest = VAE learned − FisherNet."""
    rng = np.random.default_rng(seed)
    gains = GAINS[np.linspace(0, 18, dims).round().astype(int)][:, None]
    own = spread * rng.standard_normal((3, n_sweeps, dims, n_seeds))
    fisher, vae, learned = own[0], gains + own[1], share * gains + own[2]
    for rest, gain in zip(learned - fisher, vae - fisher, strict=True):
        yield {
            d: Comparison("share", (0.5, math.inf), tuple(rest[d]), tuple(gain[d]), denied=(-math.inf, 0.25))
            for d in range(dims)
        }


def once_said(shares):
    """What an interval that includes 0 at every d but one was called: the rule that these tests reject."""
    remains = [Comparison("", ABOVE, share.values).reading == "holds" for share in shares.values()]
    return "remains" if all(remains) else "remains in part" if any(remains) else "does not remain"


@pytest.mark.parametrize("spread", [PAIRED, SPREAD])
def test_where_nothing_remains_it_is_said_to_in_at_most_one_sweep_of_twenty(spread):
    """19 dimensions, 5 seeds; of 400 sweeps at most 5%, where the rule of any interval above 0 says so in two of five."""
    drawn_sweeps = list(sweeps(0.0, 19, 5, 400, spread))
    answers = [what_remains(shares) for shares in drawn_sweeps]
    said = [
        verdict.startswith("remains") or any(note.startswith("Remains") for note in notes) for verdict, notes in answers
    ]
    assert np.mean(said) <= 0.05
    assert np.mean([once_said(shares).startswith("remains") for shares in drawn_sweeps]) > 0.2


@pytest.mark.parametrize("dims", [1, 5])
def test_where_half_remains_it_is_said_not_to_in_at_most_one_sweep_of_twenty(dims):
    """3 seeds; of 1000 sweeps at most 5%, where the rule that no interval above 0 is none says so in far more."""
    drawn_sweeps = list(sweeps(0.5, dims, 3, 1000, SPREAD))
    answers = [what_remains(shares) for shares in drawn_sweeps]
    assert (
        np.mean([v == "does not remain" or any("not remain" in note for note in notes) for v, notes in answers]) <= 0.05
    )
    if dims == 1:
        assert np.mean([once_said(shares) == "does not remain" for shares in drawn_sweeps]) > 0.2


def test_where_exactly_half_remains_nothing_remains_in_more_than_one_sweep_of_twenty_at_any_of_many_dimensions():
    """The hardest case: at the margin each d alone says so in 2.5%, and some of 19 in 38%; Holm's correction holds 2.5%."""
    drawn_sweeps = list(sweeps(0.5, 19, 5, 400, PAIRED))
    assert np.mean([what_remains(shares)[0].startswith("remains") for shares in drawn_sweeps]) <= 0.05
    uncorrected = [any(share.verdict == "confirmed" for share in shares.values()) for shares in drawn_sweeps]
    assert np.mean(uncorrected) > 0.2


def test_where_a_quarter_remains_and_the_gain_is_clear_each_limit_is_wrong_in_one_of_forty():
    """Fieller's interval is exact: 2.5% on either side of the truth within 4 standard errors, and twice that is rejected."""
    n = 2000
    limits = np.array([shares[0].interval for shares in sweeps(0.25, 1, 5, n, PAIRED)])
    error = 4 * math.sqrt(0.025 * 0.975 / n)
    for wrong in (np.mean(limits[:, 0] > 0.25), np.mean(limits[:, 1] < 0.25)):
        assert abs(wrong - 0.025) <= error < 0.025


@pytest.mark.parametrize(("share", "said"), [(1.0, "remains"), (0.0, "does not remain")])
def test_clear_gaps_are_decided(share, said):
    """Five dimensions, five seeds, a gain of 16 to 44 times the spread of a difference: in 95% of sweeps."""
    answers = [what_remains(shares)[0] for shares in sweeps(share, 5, 5, 200, PAIRED / 2)]
    assert np.mean([answer == said for answer in answers]) >= 0.95


def test_the_answer_over_dimensions():
    keeps = Comparison("", (0.5, math.inf), INSIDE, INSIDE, (-math.inf, 0.25))
    loses = replace(keeps, values=(0.01, -0.02, 0.02))
    between = replace(keeps, values=tuple(0.4 * x for x in INSIDE))
    few = replace(keeps, values=INSIDE[:2], of=INSIDE[:2])
    none = replace(keeps, of=BEYOND)
    assert what_remains({2: keeps, 5: keeps}) == ("remains", [])
    assert what_remains({2: loses, 5: loses}) == ("does not remain", [])
    verdict, notes = what_remains({2: loses, 5: between, 20: keeps})
    assert verdict == "remains in part"
    assert [note.partition(",")[0] for note in notes] == ["Remains at d = 20", "Does not remain at d = 2"]
    assert what_remains({2: between})[0] == what_remains({2: few})[0] == what_remains({})[0] == "undecided"
    verdict, notes = what_remains({2: loses, 5: few})
    assert (verdict, len(notes)) == ("undecided", 1)
    assert what_remains({2: none, 5: none}) == ("no gain to begin with", [])
    assert what_remains({2: none, 5: few})[0] == "undecided"
    for word in ("not asked of these data", "too short"):
        runs = {"short": WORDS[word].short, "apart": WORDS[word].apart}
        assert what_remains({2: keeps, 5: replace(keeps, **runs)}) == (word, [])


@pytest.mark.parametrize("n_parts", [1, 3])
def test_without_any_difference_a_claim_is_confirmed_in_one_sweep_of_forty_or_fewer(n_parts):
    """2.5% of single comparisons hold by chance, within 4 standard errors; a conjunction of three hardly ever does."""
    rng, n_sweeps = np.random.default_rng(0), 2000
    draws = rng.standard_normal((n_sweeps, n_parts, 4))
    confirmed = np.mean([conclude([Comparison("", BELOW, tuple(x)) for x in parts]) == "confirmed" for parts in draws])
    rate = 0.025**n_parts
    assert abs(confirmed - rate) <= 4 * math.sqrt(rate * (1 - rate) / n_sweeps)


def test_a_true_difference_of_two_spreads_is_seldom_contradicted_and_often_undecided():
    """Three seeds: that an interval reaches across is no contradiction. Of 2000 sweeps at most 1% say so."""
    draws = 2 + np.random.default_rng(1).standard_normal((2000, 3))
    words = [Comparison("", ABOVE, tuple(x)).verdict for x in draws]
    assert words.count("contradicted") / 2000 <= 0.01
    assert words.count("undecided") / 2000 > 0.3
