"""Whatever is typed, and whatever stands in a file that is read: exit status 0, or 2 after a sentence that names flag or file.

Command lines are drawn from the commands' own parsers, so a new flag is among them by being there.
"""

import argparse
import contextlib
import functools
import importlib
import io
import json
import os
import pickle
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from analysis.__main__ import script
from fishernet.config import TrialConfig
from fishernet.families import trial_config

# The numbers of generated inputs are for one round; the long rounds draw others besides.
ROUNDS = [1, pytest.param(16, marks=pytest.mark.long)]
TINY = {
    "model": "VAE", "latent_dim": 2, "dataset": "digits", "train_size": 40, "epochs": 1, "hidden_width": 4, "hidden_layers": 1,
}  # fmt: skip
SETTINGS = ["--dataset=digits", "--train-size=40", "--epochs=1"]
HOSTILE = [
    "", " ", "-", "--", ",", "nan", "NaN", "inf", "-inf", "-1", "0", "1", "3", "1e400", "1e-400", "9" * 30, "9" * 5000,
    "3.7", "-" + "9" * 30, "1_000", "0x10", "+1", " 1 ", "1e3", "٣", "²", "½", "１２", "True", "None", "null", "[]",
    "{}", "%s", "%(prog)s", "{0}", "'", '"', "\\", "a\nb", "\t", "\x1b[2J", "\u202eabc", "名前", "é", "\udcff",
    "a" * 300, "a/b" * 2000, "2,2,2", "20-2", "2-", "2-5-9", "1-99999999999", "1..0", "0..1:log", "1..3:step=0",
    "1..3:step=nan", "1..inf", "nan..1", "a..b", "..", "2,4", "1e-5..1e-2:log", "relu,elu", "relu,relu", "VAE", "AE",
    "CVAE", "Foo", "VAE:", "VAE:likelihood=", "VAE:likelihood=foo", ":", "VAE:seed=3", "VAE:epochs=nan", "VAE:a=b=c",
    "VAE,AE", "gaussian", "gaussian-learned", "closed-form", "cg", "eq24", "linear", "kl_weight=nan", "learning_rate=1",
    "model=VAE", "=", "a=", "auto", "cpu", "cuda", "cuda:99", "meta", "mps", "tpe", "random", "nsga-ii", "cma-es",
    "inception", "classifier", "mkde", ".", "~nobody-there/x", "/dev/null", "/dev/full", "/proc/self/mem",
    "/proc/1/nowhere", "nowhere/at/all", "nowhere.npz", "sqlite:", "sqlite://", "sqlite:///", "sqlite:////",
    "sqlite:///:memory:", "sqlite:////dev/null", "sqlite:////dev/full", "sqlite+pysqlite:///nowhere/at/all/x.db",
    "sqlite:///%00", "http:", "http://", "http://127.0.0.1:1", "http://127.0.0.1:99999", "http://[::1",
    "https://127.0.0.1:1", "postgresql://user:secret@127.0.0.1:1/db", "mysql+pymysql://127.0.0.1:1/db",
    "ftp://127.0.0.1/x", "file:///tmp", "s3://bucket/x", "databricks", "ray://127.0.0.1:1", "127.0.0.1:1",
    "127.0.0.1:99999", "127.0.0.1:x", "127.0.0.1:-1", ":1", "local", "[::1]:1", "not a host:1", "127.0.0.1",
]  # fmt: skip
FILES = ["a-file", "a-folder", "not.json", "not.npz", "not-images", "locked", "loop", "pipe.npy", "other.db"]
SWEEP = ["--models=VAE", "--latent-dims=2", *SETTINGS, "--seeds=1", "--gpus=0", "--dry-run"]
SEARCH = [*SWEEP, "--hidden-width=4,8", "--hidden-layers=1", "--trials=2", "--validation-size=20"]
ANALYSES = [
    "report",
    "claims",
    "cluster_table",
    "frechet",
    "latent_space",
    "loss_curves",
    "mse_curves",
    "samples",
    "search",
]
# What each command is given beside what is drawn, so that none of them gets as far as training: (examples in a round, words).
COMMANDS = {
    "sweeps.latent_sweep": (30, [*SWEEP, "--hidden-width=4", "--hidden-layers=1"]),
    "sweeps.hyperparameter_search": (30, SEARCH),
    "sweeps.import_records": (10, ["a-folder", "--name=imported", "--tracking-uri=sqlite:///nowhere/at/all/x.db"]),
    "fishernet.standalone_command": (10, ["--plan=plan.json", "--out=out", "--device=nonsense"]),
    **{f"analysis.{name}": (6, ["--name=there", "--tracking-uri=sqlite:///store/mlflow.db"]) for name in ANALYSES},
}


def main_of(module):
    """The command of a module; analyses are commands of one."""
    package, _, name = module.partition(".")
    return script(name) if package == "analysis" else importlib.import_module(module).main


class _Parser(Exception):
    pass


@functools.cache
def flags_of(module):
    """Every flag of the command with its aliases and whether it takes a value, from its own parser."""

    def caught(self, *args, **kwargs):
        raise _Parser(self)

    parse = argparse.ArgumentParser.parse_args
    argparse.ArgumentParser.parse_args = caught
    try:
        main_of(module)([])
    except _Parser as error:
        actions = error.args[0]._actions
    finally:
        argparse.ArgumentParser.parse_args = parse
    return {
        a.option_strings[0]: (a.option_strings, a.nargs != 0) for a in actions if a.option_strings and a.dest != "help"
    }


def run(module, argv):
    """Exit status and standard error; streams encode as a terminal's do."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            status = main_of(module)(argv)
        except SystemExit as end:
            status = end.code
        out.flush()
        err.flush()
    return status, err.buffer.getvalue().decode()


@pytest.fixture(scope="module")
def at(tmp_path_factory):
    """A folder with good and bad files, which is also the current one."""
    at = tmp_path_factory.mktemp("bad-input")
    (at / "a-folder").mkdir()
    (at / "a-file").write_text("text")
    (at / "not.json").write_text('{"configs": [')
    (at / "not.npz").write_bytes(b"PK\x03\x04 and then nothing")
    (at / "not-images").mkdir()
    (at / "not-images" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (at / "locked").mkdir(mode=0)
    (at / "loop").symlink_to("loop")
    os.mkfifo(at / "pipe.npy")
    (at / "other.db").write_bytes(b"SQLite format 3\0" + bytes(84))
    (at / "plan.json").write_text(json.dumps([TINY]))
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.lower().endswith("_proxy") or name.startswith("MLFLOW_")]:
            patch.delenv(name)
        patch.setenv("FISHERNET_DATA_DIR", str(at / "a-folder"))
        patch.setattr("fishernet.data.idx._download", _no_network)
        patch.chdir(at)
        yield at


def _no_network(*args):
    raise OSError("there is no network here")


RECORD = {
    "config": trial_config(**TINY).to_dict(), "status": "finished", "reason": None,
    "epochs": [{"epoch": 1, "time": 1e9, "metrics": {"test/mse": 0.5}}],
}  # fmt: skip
PLAN = {
    "configs": [RECORD["config"]], "pca_test_mse": {"2": 0.1}, "data_fingerprint": "0", "held_out": "test", "command": "python",
    "versions": {}, "machine": {},
}  # fmt: skip


@pytest.fixture(scope="module")
def store(at):
    """A tracking store whose sweep ``there`` has no finished run."""
    folder = at / "records"
    (folder / "run").mkdir(parents=True)
    (folder / "plan.json").write_text(json.dumps(PLAN))
    (folder / "run" / "record.json").write_text(json.dumps({**RECORD, "status": "running"}))
    uri = f"sqlite:///{at / 'store' / 'mlflow.db'}"
    status, said = run("sweeps.import_records", [str(folder), "--name=there", f"--tracking-uri={uri}"])
    assert status == 0, said
    return SimpleNamespace(uri=uri, folder=folder)


def holds_for(examples, strategies, check):
    fixed = {"derandomize": True, "database": None, "deadline": None, "suppress_health_check": list(HealthCheck)}
    settings(max_examples=examples, **fixed)(given(**strategies)(check))()


def command_lines(module):
    """Up to three of the command's flags, each with something a user might write or nobody would."""
    flags = flags_of(module)
    text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
    values = st.sampled_from(HOSTILE) | st.sampled_from(FILES) | text
    pair = st.sampled_from(sorted(flags)).flatmap(
        lambda flag: st.tuples(st.sampled_from(flags[flag][0]), values if flags[flag][1] else st.none())
    )
    return st.lists(pair, min_size=1, max_size=3)


def entries(at):
    return sorted(str(path) for path in at.rglob("*"))


@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize("module", COMMANDS)
def test_a_command_line_is_followed_or_refused_with_a_sentence_that_names_the_flag(module, rounds, at, store):
    flags, (examples, base) = flags_of(module), COMMANDS[module]
    assert len(flags) > 2

    def check(pairs):
        # The first would join whatever cluster runs on this machine, the others wait for somebody at the pipe's other end.
        assume(not {("--address", "auto"), ("--plan", "pipe.npy"), ("--write-plan", "pipe.npy")} & {*pairs})
        before = entries(at)
        status, said = run(module, [*base, *(name if value is None else f"{name}={value}" for name, value in pairs)])
        assert status in (0, 2), said
        if status == 2:
            typed = {name for name, _ in pairs} | {word.partition("=")[0] for word in base}
            names = {alias for aliases, _ in flags.values() if typed & {*aliases} for alias in aliases}
            values = [
                word.partition("=")[2] or word for word in base
            ]  # an error of what is given anyway may say only that
            assert "error: " in said, said
            problem = said[said.rindex("error: ") :]
            assert any(word in problem for word in [*names, *values] if len(word) > 2), problem
            assert entries(at) == before

    holds_for(examples * rounds, {"pairs": command_lines(module)}, check)


NUMBERS = st.sampled_from([0, -1, 1, 2**31, 2**63, 2**64, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"), True])
WORDS = st.sampled_from(["", "1", "nan", "VAE", "a\0b", "\ud800", "名前", "../../x", "a" * 5000, "cg", "/"])
LEAVES = NUMBERS | WORDS | st.none()
VALUES = LEAVES | st.lists(LEAVES, max_size=3) | st.dictionaries(WORDS, LEAVES, max_size=3)


@st.composite
def damaged(draw, good, paths):
    """A JSON text that is nearly ``good``: a value replaced, left out or added at one of its places, or its bytes damaged."""
    content = json.loads(json.dumps(good))
    for _ in range(draw(st.integers(0, 2))):
        *way, last = draw(st.sampled_from(paths))
        place = content
        with contextlib.suppress(KeyError, IndexError, TypeError):
            for step in way:
                place = place[step]
            if draw(st.booleans()) and draw(st.booleans()):
                del place[last]
            else:
                place[last] = draw(VALUES)
    text = json.dumps(content).encode()
    how = draw(
        st.sampled_from(["as it is"] * 6 + ["cut", "doubled", "utf-16", "a byte", "deep", "digits", "empty", "other"])
    )
    if how == "cut":
        text = text[: draw(st.integers(0, len(text)))]
    elif how == "a byte":
        i = draw(st.integers(0, len(text) - 1))
        text = text[:i] + bytes([draw(st.integers(0, 255))]) + text[i + 1 :]
    elif how == "other":
        text = json.dumps(draw(VALUES)).encode()
    return {
        "doubled": text + text, "utf-16": text.decode(errors="replace").encode("utf-16"), "deep": b"[" * 100_000,
        "digits": b'[{"epochs": ' + b"9" * 5000 + b"}]", "empty": b"",
    }.get(how, text)  # fmt: skip


ROW = [(0, name) for name in [*TrialConfig.__dataclass_fields__, "latent_dims", "名前"]]


@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize(
    ("module", "words"),
    [("sweeps.latent_sweep", ["--dry-run", "--gpus=0"]), ("fishernet.__main__", ["--out=out", "--device=nonsense"])],
)
def test_a_plan_is_followed_or_refused_with_a_sentence_that_names_the_file(module, words, rounds, at):
    path = at / "drawn.json"

    def check(content):
        path.write_bytes(content)
        before = entries(at)
        status, said = run(module, [*words, f"--plan={path}"])
        assert status in (0, 2), said
        if status == 2:
            problem = said[said.index("error: ") :]
            assert f"--plan {path}" in problem or "--device" in problem, problem
        assert entries(at) == before

    plans = damaged([TINY, {**TINY, "seed": 1}], [*ROW, (1, "seed"), (1, "dataset"), (0,), (1,)])
    holds_for(30 * rounds, {"content": plans}, check)


@pytest.mark.parametrize("rounds", ROUNDS)
def test_a_record_is_imported_or_refused_with_a_sentence_that_names_the_file(rounds, at, store):
    def check(plan, record):
        (store.folder / "plan.json").write_bytes(plan)
        (store.folder / "run" / "record.json").write_bytes(record)
        words = [str(store.folder), "--name=imported", f"--tracking-uri={store.uri}", f"--storage-path={at / 'store'}"]
        status, said = run("sweeps.import_records", words)
        assert status in (0, 1, 2), said
        if status == 2:
            assert str(store.folder) in said or "--name" in said, said

    plans = damaged(PLAN, [(key,) for key in PLAN] + [("configs", 0, "seed"), ("pca_test_mse", "2"), ("configs", 0)])
    places = [(key,) for key in RECORD] + [("epochs", 0), *(("epochs", 0, key) for key in ("epoch", "time", "metrics"))]
    records = damaged(RECORD, [*places, ("epochs", 0, "metrics", "test/mse"), ("config", "epochs"), ("config", "seed")])
    holds_for(20 * rounds, {"plan": st.just(json.dumps(PLAN).encode()) | plans, "record": records}, check)


def test_a_dry_run_says_what_does_not_fit_the_memory(at):
    resource = pytest.importorskip("resource", reason="limits of memory are set by POSIX alone")
    words = ["--models=VAE", "--hidden-width=65536", "--latent-dims=2", *SETTINGS, "--seeds=1", "--gpus=0", "--dry-run"]
    assert run("sweeps.latent_sweep", [*words, "--hidden-width=4"])[0] == 0  # loads what needs memory itself
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**33, limits[1]))  # a layer takes 16 GiB
    try:
        assert run("sweeps.latent_sweep", words)[0] == 0
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


class Unpickled:
    """What would tell if it were ever unpickled."""

    def __reduce__(self):
        return os.mkdir, ("unpickled",)


def _npy(array, allow_pickle=False):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=allow_pickle)
    return file.getvalue()


def _npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def _npy_claiming(shape):
    header = repr({"descr": "|u1", "fortran_order": False, "shape": shape}).ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


IMAGES = np.random.default_rng(0).integers(0, 256, (12, 4, 4), dtype=np.uint8)
ARRAYS = [
    IMAGES, IMAGES[:, None], IMAGES[..., None], IMAGES[0], IMAGES[:0], IMAGES[:1], IMAGES[:, :0], IMAGES / 255, IMAGES / 254,
    -IMAGES, np.full((6, 4, 4), np.nan), np.full((6, 4, 4), np.inf, np.float16), IMAGES.astype(complex), IMAGES.astype("U3"),
    np.zeros(()), IMAGES.astype("datetime64[s]"), IMAGES.astype(np.int64) * 10**15, np.zeros((6, 4, 4), "i4,f4"), IMAGES > 9,
    np.zeros((2, 3, 4, 4, 4)), np.zeros((6, 2, 4, 4)), IMAGES.astype(">u2"), IMAGES.astype(np.longdouble),
]  # fmt: skip
CONTENTS = [
    *map(_npy, ARRAYS), _npy(np.array([Unpickled()] * 3), allow_pickle=True), pickle.dumps(Unpickled()),
    *(_npy_claiming(shape) for shape in ((10**12,), (10**9, 28, 28), (-1, 4, 4), ("a",), (2**62, 4, 4), ())),
    _npz(train=IMAGES, test=IMAGES), _npz(train=IMAGES), _npz(images=IMAGES, labels=np.arange(12)), _npz(), b"",
    _npz(images=IMAGES, labels=IMAGES), _npz(train=IMAGES, test=IMAGES[:, :2]), _npz(**{"../x": IMAGES}),
    _npz(images=np.array([Unpickled()])), b"PK\x05\x06" + bytes(18),
]  # fmt: skip


@st.composite
def spoilt(draw, contents):
    """One of the contents, now and then cut short or with a byte changed."""
    content = draw(st.sampled_from(contents))
    how = draw(st.sampled_from(["as it is", "as it is", "cut", "a byte"])) if content else ""
    i = draw(st.integers(0, len(content) - 1)) if how in ("cut", "a byte") else 0
    changed = {"cut": content[:i], "a byte": content[:i] + bytes([draw(st.integers(0, 255))]) + content[i + 1 :]}
    return changed.get(how, content)


def check_images(path):
    words = [*COMMANDS["sweeps.latent_sweep"][1], f"--dataset={path}", "--train-size=0"]
    status, said = run("sweeps.latent_sweep", words)
    assert status in (0, 2), said
    assert status == 0 or str(path) in said[said.index("error: ") :], said


@pytest.mark.parametrize("rounds", ROUNDS)
def test_a_file_of_arrays_is_read_or_refused_with_a_sentence_that_names_it_and_never_unpickled(rounds, at):
    def check(suffix, content):
        (at / f"drawn{suffix}").write_bytes(content)
        check_images(at / f"drawn{suffix}")
        assert not (at / "unpickled").exists()

    holds_for(30 * rounds, {"suffix": st.sampled_from([".npy", ".npz"]), "content": spoilt(CONTENTS)}, check)


def _picture(mode, width, kind):
    file = io.BytesIO()
    Image.new(mode, (width, 4)).save(file, kind)
    return file.getvalue()


PICTURES = [
    _picture(*about)
    for about in [
        ("L", 4, "png"), ("RGB", 4, "png"), ("RGBA", 4, "png"), ("P", 4, "gif"), ("1", 4, "bmp"), ("F", 4, "tiff"),
        ("L", 4, "webp"), ("CMYK", 4, "jpeg"), ("I;16", 4, "png"), ("L", 5, "png"), ("LA", 4, "png"),
    ]
]  # fmt: skip
NAMES = [
    "a.png", "b.PNG", "c.jpg", ".hidden.png", "train/a.png", "test/a.tif", "x/a.png", "x/y/z.bmp", "w/b.png", "c.txt", "é.png",
]  # fmt: skip


@pytest.mark.parametrize("rounds", ROUNDS)
def test_a_folder_of_images_is_read_or_refused_with_a_sentence_that_names_it(rounds, at):
    folder = at / "drawn"

    def check(files):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        check_images(folder)

    holds_for(20 * rounds, {"files": st.dictionaries(st.sampled_from(NAMES), spoilt(PICTURES), max_size=5)}, check)


@pytest.mark.parametrize("device", ["nonsense", "mps", "cuda:999", "cpu:x", ""])
def test_a_device_that_is_not_there_is_refused(device, at):
    status, said = run("fishernet.__main__", ["--plan=plan.json", "--out=out", f"--device={device}"])
    assert status == 2
    assert "error: --device" in said
    assert not (at / "out").exists()
