"""One part that fails takes no other along, whatever it raises, and leaves a sentence, its traceback and a status."""

import pytest

from analysis import exhibits
from analysis.__main__ import main as analyse
from analysis.exhibits import Absent
from analysis.figures import mse_curves, search
from analysis.frame import AnalysisError
from analysis.parts import Failures, Part


def broken(*given: object, **named: object) -> None:
    raise ZeroDivisionError("division by zero")


def test_what_nobody_foresaw_is_counted_and_its_traceback_kept(tmp_path):
    failures, said = Failures(tmp_path / "new"), []
    with failures.part("curves", said.append):
        broken()
    path = tmp_path / "new" / "traceback-curves.txt"
    assert said == [f"ZeroDivisionError: division by zero; the traceback is in {path}."]
    assert "in broken\n" in path.read_text()
    assert failures.n == 1


def test_a_traceback_that_no_folder_takes_is_on_standard_error(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for folder in (None, tmp_path / "file"):
        said: list[str] = []
        with Failures(folder).part("curves", said.append):
            broken()
        assert said == ["ZeroDivisionError: division by zero; the traceback is on standard error."]
        assert "in broken\n" in capsys.readouterr().err


def test_what_is_foreseen_is_its_own_sentence_and_what_the_caller_wants_passes(tmp_path):
    failures, said = Failures(tmp_path, passing=(OSError,)), []
    with failures.part("curves", said.append):
        raise AnalysisError("Train something first.")
    assert (said, failures.n, list(tmp_path.iterdir())) == (["Train something first."], 0, [])
    for error in (OSError(28, "No space left on device"), KeyboardInterrupt()):
        with pytest.raises(type(error)), failures.part("curves", said.append):
            raise error


def test_each_part_stands_by_itself_also_what_came_before_an_error():
    def some():
        yield Absent("a", "A", "")
        yield Part("b", "B", broken)
        yield Part("c", "C", lambda: [Absent("c1", "C1", ""), Absent("c2", "C2", "")])
        raise ValueError

    made = Failures().exhibits("all", "All", some)
    assert [exhibit.stem for exhibit in made] == ["a", "b", "c1", "c2", "all"]
    assert made[1].why.startswith("ZeroDivisionError: division by zero")
    assert made[4].why.startswith("ValueError; the traceback")


def test_a_figure_that_fails_leaves_the_table_and_the_other_figure(store, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(mse_curves, "plot_mse_by_epoch", broken)
    assert analyse(["mse-curves", "--name", "curves", "--tracking-uri", store.uri, "--out", str(tmp_path)]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "mean ± standard deviation over 2 seeds" in out
    assert "MSE by epoch: not drawn. ZeroDivisionError: division by zero; the traceback is in" in out
    assert (tmp_path / "mse_curves.png").stat().st_size
    assert not (tmp_path / "mse_by_epoch.png").exists()


@pytest.mark.parametrize("how", ["made", "written"])
def test_a_figure_of_a_search_that_fails_leaves_the_others(how, searched, tmp_path, capsys, monkeypatch):
    """Also one that can be made and not laid out."""
    if how == "made":
        monkeypatch.setattr(search, "importance", broken)
    else:
        write = exhibits.write
        monkeypatch.setattr(
            exhibits, "write", lambda e, folder: broken() if e.stem == "parameter_importance" else write(e, folder)
        )
    assert analyse(["search", "--name", "found", "--tracking-uri", searched.uri, "--out", str(tmp_path)]) == 1
    assert "What the score depends on: not drawn. ZeroDivisionError: division by zero" in capsys.readouterr().out
    names = {path.name for path in tmp_path.iterdir()}
    assert "traceback-parameter_importance.txt" in names
    assert {"best_settings.csv", "search_history.png", "slices_VAE-d02.pdf"} < names
    assert "parameter_importance.png" not in names
