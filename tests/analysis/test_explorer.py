"""The explorer shows what the model decodes, everywhere one can go with a pointer, a finger or a keyboard."""

import base64
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analysis import exhibits, explorer
from analysis import page as report_page
from analysis.__main__ import main as analyse
from analysis.errors import AnalysisError
from analysis.exhibits import Absent, Page
from analysis.explorer import page
from analysis.explorer.decoders import decoder_of
from analysis.explorer.gather import Shown, plane_of, run_of
from analysis.stored import model_flag
from fishernet.config import TrialConfig
from fishernet.families import all_fields, family, trial_config
from fishernet.likelihoods import LIKELIHOODS
from fishernet.models.base import Autoencoder
from fishernet.models.fishernet import FisherNet
from fishernet.networks.activations import ACTIVATIONS
from fishernet.trained import decode, posterior_covariances, posterior_means
from tests.analysis.browser import Browser

SHAPE = (3, 7, 6)  # of odd and even length, so that both of a stride's cases occur
N_IMAGES, N_POINTS = 40, 25
SMALL: dict[str, Any] = {"hidden_layers": 2, "hidden_width": 16}
LEARNED = {"model": "FisherNet", "noise_start": -4.0}
VAE = {"model": "VAE"}
MADE: dict[str, Mapping[str, Any]] = {
    **{f"activation {name}": {**LEARNED, "activation": name} for name in ACTIVATIONS},
    **{f"likelihood {name}": {**VAE, "likelihood": name} for name in LIKELIHOODS},
    "linear": {**LEARNED, "decoder_output": "linear"},
    "symmetric": {**LEARNED, "pixel_range": "symmetric"},
    "linear flow": {**VAE, "likelihood": "maf", "decoder_output": "linear"},
    "bernoulli": {"model": "FisherNet", "likelihood": "bernoulli"},
    "flow": {"model": "FisherNet", "likelihood": "maf"},
    "scales": {"model": "FisherNet", "likelihood": "student-t", "scale": "diagonal"},
    "mixture": {**VAE, "likelihood": "gaussian", "components": 3},
    "mixture of full scales": {**VAE, "likelihood": "matrix-t", "scale": "full", "components": 2},
    "mixture of pixels": {**VAE, "likelihood": "discretised-logistic", "components": 3, "decoder_output": "linear"},
    "gated": {**VAE, "gating": "sigmoid"},
    "one layer": {**LEARNED, "decoder_layers": 0},
    "convolutions": {**LEARNED, "network": "conv", "activation": "tanh"},
    "gated convolutions": {**VAE, "network": "conv", "gating": "sigmoid"},
    "convolutions of a mixture": {**VAE, "network": "conv", "likelihood": "student-t", "components": 2},
    "one latent": {**LEARNED, "latent_dim": 1},
    "two latents": {**VAE, "latent_dim": 2},
    "most latents": {**LEARNED, "latent_dim": explorer.LARGEST},
    "no posterior": {"model": "AE"},
    "no known covariance": {"model": "IAF"},
    "pooled": {"model": "AE", "network": "pooled-cnn", "latent_dim": 12},
}  # fmt: skip


def made(values: Mapping[str, Any], shape: tuple[int, int, int] = SHAPE) -> Autoencoder:
    """A model of drawn weights, large enough that images are no uniform grey."""
    config: TrialConfig = trial_config(**{"latent_dim": 5, **SMALL, **values})
    model: Autoencoder = family(config.model).load()([config], shape, 100).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.startswith("decoder"):
                weight.mul_(2.5)
    return model


@pytest.fixture(scope="module")
def models() -> dict[str, Autoencoder]:
    return {name: made(values) for name, values in MADE.items()}


def images_of(shape: tuple[int, ...], n: int = N_IMAGES) -> torch.Tensor:
    return torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def shown(models: Mapping[str, Autoencoder], shape: tuple[int, ...] = SHAPE) -> Shown:
    images, n = images_of(shape), N_IMAGES
    runs = [run_of(model, posterior_means(model, images), images, np.arange(n), name, "seed 0")
            for name, model in models.items()]  # fmt: skip
    return Shown(runs, images.numpy(), np.arange(n), np.arange(n) % 3, ["</script>", "b & c", "d"],
                 ["#832db6", "#717581", "#a96b59"], "made images", "test")  # fmt: skip


@pytest.fixture(scope="module")
def of_all(models) -> Shown:
    return shown(models)


@pytest.fixture(scope="module")
def file(of_all, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("explorer") / "explorer.html"
    path.write_text(page.render("<b>every kind</b>", of_all), encoding="utf-8")
    return path


@pytest.fixture
def pair(models, tmp_path) -> Path:
    """Two runs of two latents, as a sweep has them side by side."""
    two = shown({"FisherNet, d = 2": made({**LEARNED, "latent_dim": 2}), "VAE, d = 2": models["two latents"]})
    (tmp_path / "explorer.html").write_text(page.render("pair", two), encoding="utf-8")
    return tmp_path / "explorer.html"


# --- what the page is told


def numbers(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<f4")


def test_weights_and_codes_go_into_the_page_bit_by_bit(models, of_all):
    html = page.render("made", of_all)
    for i, (name, model) in enumerate(models.items()):
        (text,) = re.findall(rf'<script type="application/json" id="run-{i}">(.*?)</script>', html)
        run = json.loads(text)
        assert (numbers(run["codes"]).reshape(-1, run["d"]) == of_all.runs[i].codes).all(), name
        if type(model.decoder).__module__ == "fishernet.networks.dense":
            for layer, described in zip(model.decoder.layers[:-1], run["decoder"]["layers"][:-1], strict=True):
                assert (numbers(described["weight"]) == layer.weight[0].detach().numpy().ravel()).all(), name
                assert (numbers(described["bias"]) == layer.bias[0].detach().numpy()).all(), name


def test_outputs_that_no_image_depends_on_stay_out_of_the_page():
    """A full scale of n pixels has n (n + 1)/2 of them."""
    model = made({**VAE, "likelihood": "gaussian", "scale": "full"})
    assert model.likelihood.n_outputs == 126 + 126 * 127 // 2
    decoder = decoder_of(model, SHAPE)
    assert decoder is not None
    assert decoder["layers"][-1]["n_out"] == 126


def test_every_likelihood_activation_and_choice_of_a_decoder_is_tried_here():
    assert {values["likelihood"] for values in MADE.values() if "likelihood" in values} == set(LIKELIHOODS)
    assert set(all_fields()["activation"].metadata["choices"]) == set(ACTIVATIONS)


def test_the_plane_of_many_latents_holds_the_most_variance_and_is_orthonormal():
    codes = np.random.default_rng(0).normal(size=(4000, 5)) * [1, 5, 1, 3, 1] + 7
    plane = plane_of(codes)
    np.testing.assert_allclose(plane.axes @ plane.axes.T, np.eye(2), atol=1e-12)
    assert np.abs(plane.axes).argmax(axis=1).tolist() == [1, 3]
    assert plane.share == pytest.approx((25 + 9) / (25 + 9 + 3), abs=0.02)  # 4,000 draws: about 1% of a variance
    assert (plane_of(codes[:, :2]).axes == np.eye(2)).all()  # two latents are shown as they are


def test_a_decoder_that_the_page_cannot_compute_is_decoded_beforehand(models, of_all):
    run = of_all.runs[list(models).index("pooled")]
    grid, plane = run.grid, run.plane
    assert run.decoder is None
    side = len(grid.images)
    for row, column in ((0, 0), (3, side - 1), (side - 1, 2)):
        u = grid.low + (grid.high - grid.low) * np.array([column, row]) / (side - 1)
        expected = decode(models["pooled"], (plane.origin + u @ plane.axes)[None], SHAPE)[0].numpy() * 255
        assert np.abs(grid.images[row, column] - expected).max() <= 0.51  # rounded to whole grey values
    inside = (run.codes - plane.origin) @ plane.axes.T
    assert ((inside > grid.low) & (inside < grid.high)).all()


# --- of a sweep


def html_of(made: exhibits.Exhibit) -> str:
    assert isinstance(made, Page)
    return made.html


def names(html: str) -> list[str]:
    (text,) = re.findall(r'id="shared">(.*?)</script>', html)
    return [f"{run['name']} {run['about'].split(',')[0]}" for run in json.loads(text)["runs"]]


def best_seed(trained, variant: str, latent_dim: int) -> int:
    runs = trained.runs[(trained.runs["variant"] == variant) & (trained.runs["latent_dim"] == latent_dim)]
    return int(runs.loc[runs["test/mse"].idxmin(), "seed"])


def test_two_lines_with_ellipses_are_shown_at_the_smallest_d_each_in_its_best_run(trained):
    expected = [f"{line}, d = 2 seed {best_seed(trained, line, 2)}" for line in ("FisherNet", "VAE")]
    assert names(html_of(explorer.explorer(trained))) == expected


def test_lines_are_named_as_labels_flags_or_models_and_seeds_are_chosen(trained):
    asked = [model_flag(trained.lines["VAE gaussian-learned"]), "vae Gaussian-learned", "ae"]
    html = html_of(explorer.explorer(trained, asked, [2, 5], seed=1))
    assert names(html) == [f"{name}, d = {d} seed 1" for d in (2, 5) for name in ("VAE gaussian-learned", "AE")]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--models", "GPT"], "--models GPT: no run of such a line has finished in trained; it has FisherNet, VAE,"),
        (["--models", "VEA"], "AE. Did you mean VAE?"),
        (["--models", "FisherNet,VAE"], "AE. Several lines have spaces between."),
        (["--latent-dims", "2", "65"], "--latent-dims 65: the explorer has"),
        (["--latent-dims", "2,65"], "--latent-dims 65: the explorer has a slider for each latent and takes up to 64"),
        (["--latent-dims", "7"], "No run of FisherNet at d = 7 has finished; `"),
        (["--latent-dims", "7"], "what is missing. The sweep's own command was `"),
        (["--seed", "9"], "--seed 9"),
        (["--name", "nothing"], "nothing"),
    ],
)  # fmt: skip
def test_what_cannot_be_shown_is_a_sentence(flags, said, trained, tmp_path, capsys):
    arguments = ["--name", "trained", "--tracking-uri", trained.sweep.uri, "--out", str(tmp_path / "out")]
    status = analyse(["explore", *arguments, *flags])
    out, err = capsys.readouterr()
    assert status == 2
    assert said in err
    assert "Traceback" not in out + err
    assert not (tmp_path / "out").exists()


def test_runs_without_weights_are_a_sentence(trained, monkeypatch):
    def missing(run: Any) -> Any:
        raise AnalysisError("weights.safetensors cannot be had")

    monkeypatch.setattr(trained, "model", missing)
    (made,) = trained.failures.exhibits("explorer", "Latent explorer", lambda: explorer.parts(trained))
    assert isinstance(made, Absent)
    assert made.why == "weights.safetensors cannot be had"


def test_a_sweep_whose_decoders_all_see_the_image_is_a_sentence(trained, monkeypatch):
    monkeypatch.setattr(trained, "runs", trained.runs.assign(model="PixelVAE", variant="PixelVAE"))
    made = explorer.explorer(trained)
    assert isinstance(made, Absent)
    assert made.why.startswith("PixelVAE decodes pixel by pixel")


def test_the_command_writes_one_file_and_a_report_links_it(trained, tmp_path, capsys):
    arguments = ["--name", "trained", "--tracking-uri", trained.sweep.uri, "--out", str(tmp_path)]
    assert analyse(["explore", *arguments]) == 0
    assert "explorer.html" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["explorer.html"]
    section = report_page.Section("S", "", [explorer.explorer(trained)])
    assert '<a href="explorer.html">' in report_page.render("T", [], {}, [section], [])


# --- in a browser


def points(model: Autoencoder, codes: np.ndarray) -> np.ndarray:
    """Points about the codes and far from them, (N_POINTS, d) of float32."""
    random = np.random.default_rng(0)
    spread = np.where(random.random((N_POINTS, 1)) < 0.5, 1.0, 4.0)
    return (codes.mean(axis=0) + spread * random.normal(size=(N_POINTS, codes.shape[1]))).astype(np.float32)


def decoded(browser: Browser, i: int, z: np.ndarray) -> np.ndarray:
    text = browser.js(f"JSON.stringify({json.dumps(z.tolist())}.map(z => [...decode(openRun({i}).decoder, z)]))")
    return np.array(json.loads(text))


def test_the_page_decodes_what_the_model_decodes(browser, file, models, of_all):
    """Both compute in float32, in another order: differences are of its rounding, 6e-8, times some hundred additions."""
    browser.open(file)
    largest = {}
    for i, (name, model) in enumerate(models.items()):
        if of_all.runs[i].decoder is None:
            continue
        z = points(model, of_all.runs[i].codes)
        expected = decode(model, z, SHAPE).flatten(1).numpy()
        assert np.ptp(expected) > 0.3, name  # no uniform grey
        largest[name] = np.abs(decoded(browser, i, z) - expected).max()
    print("largest difference of a grey value in [0, 1]:", {name: f"{value:.1e}" for name, value in largest.items()})
    assert max(largest.values()) < 1e-5, largest
    assert len(largest) == len(models) - 1


def test_the_ellipse_at_a_point_is_the_inverse_of_the_models_precision_there(browser, file, models, of_all):
    browser.open(file)
    tried = 0
    for i, model in enumerate(models.values()):
        run = of_all.runs[i]
        if not (run.decoder and run.decoder["information"]):
            continue
        tried += 1
        z = points(model, run.codes)[:5]
        precision = model.precision(torch.from_numpy(z)[None], torch.float64)[0].detach().numpy()
        expected = run.plane.axes @ np.linalg.inv(precision) @ run.plane.axes.T
        calls = f"{json.dumps(z.tolist())}.map(z => projectedCovariance(precision(run.decoder, z), run.axes))"
        found = browser.js(f"(run => {calls})(openRun({i}))")
        np.testing.assert_allclose(found, expected[:, [0, 0, 1], [0, 1, 1]], rtol=2e-3, atol=1e-6)
    assert tried == sum(isinstance(model, FisherNet) for model in models.values()) - 1  # that with scales


def test_what_has_no_ellipse_is_said_by_its_reason(browser, file, models):
    browser.open(file)
    said = {}
    for name in ("no posterior", "no known covariance", "two latents"):
        index = list(models).index(name)
        said[name] = browser.js(f"sides[0].open({index}); sides[0].reach = 99; sides[0].ellipseInWords()")
    assert said == {
        "no posterior": "This model has no posterior, so no ellipse.",
        "no known covariance": "The posterior's covariance is not known, so no ellipse.",
        "two latents": "Ellipses: 1σ and 2σ of the posterior of the nearest image, by its encoder.",
    }


def test_other_ellipses_are_those_of_the_encoder(models, of_all):
    for name in ("two latents", "scales"):
        run = of_all.runs[list(models).index(name)]
        covariances = run.plane.axes @ posterior_covariances(models[name], images_of(SHAPE)) @ run.plane.axes.T
        np.testing.assert_allclose(run.ellipses, covariances[:, [0, 0, 1], [0, 1, 1]], rtol=1e-4, atol=1e-6)
    assert of_all.runs[list(models).index("no posterior")].ellipses is None


def test_every_kind_of_run_opens_without_a_complaint_or_a_request(browser, file, models):
    browser.open(file)
    for i in range(len(models)):
        browser.js(
            f"sides[0].open({i}); sides[0].take(3); new Promise(done => requestAnimationFrame(() => setTimeout(done)))"
        )
        assert browser.js("sides[0].find('.note').textContent").startswith("At ")
    assert browser.of("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded") == []
    assert [event["request"]["url"] for event in browser.of("Network.requestWillBeSent")] == [file.as_uri()]
    assert browser.js("document.querySelectorAll('b').length") == 0  # of the name; and a class is called </script>
    assert browser.js("document.querySelector('#classes').textContent") == "</script>b & cd"


def test_nothing_smuggled_in_runs_is_styled_or_asks_the_network(browser, pair):
    browser.open(pair)
    browser.js("document.body.append(Object.assign(document.createElement('script'), {text: 'window.ran = 1'}))")
    browser.js("document.head.append(Object.assign(document.createElement('style'), {textContent: 'h1 {color: red}'}))")
    assert browser.js("typeof window.ran") == "undefined"
    assert browser.js("getComputedStyle(document.querySelector('h1')).color") != "rgb(255, 0, 0)"
    refused = "addEventListener('securitypolicyviolation', e => done(e.effectiveDirective))"
    assert (
        browser.js(f"new Promise(done => {{ {refused}; fetch('http://127.0.0.1:9/').catch(() => 0) }})")
        == "connect-src"
    )


def key(browser: Browser, name: str, code: int, modifiers: int = 0) -> None:
    for kind in ("rawKeyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key=name, windowsVirtualKeyCode=code, modifiers=modifiers)


def mouse(browser: Browser, kind: str, at: list[float], **more: Any) -> None:
    browser.call("Input.dispatchMouseEvent", type=kind, x=at[0], y=at[1], **more)


def click(browser: Browser, at: list[float]) -> None:
    for kind in ("mousePressed", "mouseReleased"):
        mouse(browser, kind, at, button="left", clickCount=1)


def on_map(browser: Browser, across: float, down: float, side: int = 0) -> list[float]:
    """That share of the map's width and height, in the window."""
    box = f"(box => [box.x + {across} * box.width, box.y + {down} * box.height])"
    return browser.js(f"{box}(sides[{side}].map.getBoundingClientRect())")


def latents(browser: Browser, side: int = 0) -> np.ndarray:
    return np.array(browser.js(f"[...sides[{side}].z]"))


def test_the_point_follows_the_pointer_and_both_maps_mark_the_nearest_image(browser, pair):
    browser.open(pair)
    at = on_map(browser, 0.3, 0.4)
    mouse(browser, "mouseMoved", at)
    expected = browser.js("sides[0].toPlane([0.3 * sides[0].size[0], 0.4 * sides[0].size[1]])")
    pixel = 1 / browser.js("sides[0].scale")
    np.testing.assert_allclose(latents(browser), expected, atol=pixel)  # the pointer is at whole pixels
    codes = np.array(browser.js("[...sides[0].run.codes]")).reshape(-1, 2)
    image = int(np.linalg.norm(codes - latents(browser), axis=1).argmin())
    assert browser.js("[sides[0].image, sides[1].image]") == [image, image]
    assert (latents(browser, 1) == browser.js(f"[...sides[1].run.code({image})]")).all()
    browser.js("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
    assert browser.js("sides[0].find('.image figcaption').textContent").startswith("Nearest image: ")
    drawn = browser.js("[...sides[0].find('.decoded canvas').getContext('2d').getImageData(0, 0, 6, 7).data]")
    z = latents(browser)[None]
    grey = decoded(browser, 0, z)[0].reshape(3, 7, 6).transpose(1, 2, 0)
    assert np.abs(np.array(drawn).reshape(7, 6, 4)[..., :3] / 255 - grey).max() <= 0.51 / 255


def test_a_click_takes_the_nearest_dot_and_holds_it_and_another_lets_go(browser, pair):
    browser.open(pair)
    dot = browser.js("sides[0].toPixel(sides[0].run.points[7])")
    corner = on_map(browser, 0, 0)
    click(browser, [corner[0] + dot[0] + 1, corner[1] + dot[1]])
    assert (latents(browser) == browser.js("[...sides[0].run.code(sides[0].image)]")).all()
    held = latents(browser)
    mouse(browser, "mouseMoved", on_map(browser, 0.8, 0.8))
    assert (latents(browser) == held).all()
    click(browser, on_map(browser, 0.8, 0.8))
    assert (latents(browser) != held).all()


def test_a_drag_moves_the_map_and_the_wheel_zooms_where_the_pointer_is(browser, pair):
    browser.open(pair)
    centre, start, end = browser.js("sides[0].centre"), on_map(browser, 0.5, 0.5), on_map(browser, 0.6, 0.5)
    mouse(browser, "mousePressed", start, button="left", clickCount=1)
    mouse(browser, "mouseMoved", end, button="left", buttons=1)
    mouse(browser, "mouseReleased", end, button="left", clickCount=1)
    moved = browser.js("sides[0].centre")
    assert moved[0] == pytest.approx(centre[0] - (end[0] - start[0]) / browser.js("sides[0].scale"), rel=1e-3)
    assert moved[1] == centre[1]
    scale, there = browser.js("sides[0].scale"), browser.js("sides[0].toPlane([100, 80])")
    browser.js(
        "sides[0].map.dispatchEvent(new WheelEvent('wheel', {deltaY: -200, clientX: sides[0].map.getBoundingClientRect().x + 101,"
        " clientY: sides[0].map.getBoundingClientRect().y + 81, cancelable: true}))"
    )  # the map has a border of a pixel
    assert browser.js("sides[0].scale") == pytest.approx(scale * np.exp(0.3))
    np.testing.assert_allclose(browser.js("sides[0].toPlane([100, 80])"), there, atol=2 / scale)


def test_arrows_move_the_point_and_tab_reaches_the_map_with_a_visible_focus(browser, pair):
    browser.open(pair)
    for _ in range(20):
        key(browser, "Tab", 9)
        if browser.js("document.activeElement === sides[0].map"):
            break
    assert browser.js("document.activeElement === sides[0].map")
    assert browser.js("getComputedStyle(sides[0].map).outlineStyle") != "none"
    before, scale = latents(browser), browser.js("sides[0].scale")
    key(browser, "ArrowRight", 39)
    np.testing.assert_allclose(latents(browser) - before, [12 / scale, 0], atol=1e-9)
    key(browser, "ArrowUp", 38, modifiers=8)  # with Shift four times as far
    np.testing.assert_allclose(latents(browser) - before, [12 / scale, 48 / scale], atol=1e-9)
    key(browser, "Enter", 13)
    assert (latents(browser) == browser.js("[...sides[0].run.code(sides[0].image)]")).all()
    for _ in range(40):
        key(browser, "ArrowLeft", 37, modifiers=8)
    at, (wide, _) = browser.js("sides[0].toPixel(sides[0].z)"), browser.js("sides[0].size")
    assert 0 < at[0] < wide  # the map follows


def test_everything_that_can_be_used_has_a_name(browser, file):
    browser.open(file)
    nameless = (
        "[...document.querySelectorAll('button, select, input, canvas')].filter(e =>"
        " !e.getAttribute('aria-label') && !e.textContent.trim() && !(e.closest('label')?.textContent.trim())).length"
    )
    assert browser.js(nameless) == 0


def test_a_slider_moves_its_latent_alone(browser, file, models):
    browser.open(file)
    browser.js(f"sides[0].open({list(models).index('gated')}); sides[0].take(0)")
    before = latents(browser)
    slider = "sides[0].find('.sliders input[data-latent=\"3\"]')"
    browser.js(f"{slider}.value = {slider}.max; {slider}.dispatchEvent(new Event('input'))")
    after = latents(browser)
    assert np.flatnonzero(after != before).tolist() == [3]
    assert after[3] == pytest.approx(browser.js(f"Number({slider}.max)"))


def test_a_phone_shows_it_without_scrolling_sideways_and_a_finger_moves_the_point(browser, file, pair, models):
    for path, opened in ((pair, 0), (file, list(models).index("most latents"))):
        browser.open(path, 390, 844)
        browser.js(f"sides[0].open({opened}); document.querySelectorAll('details').forEach(one => one.open = true)")
        assert browser.js("document.documentElement.scrollWidth") == 390
    browser.open(pair, 390, 844)
    browser.call("Emulation.setTouchEmulationEnabled", enabled=True)
    start, end = on_map(browser, 0.5, 0.5), on_map(browser, 0.3, 0.7)
    browser.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": start[0], "y": start[1]}])
    browser.call("Input.dispatchTouchEvent", type="touchMove", touchPoints=[{"x": end[0], "y": end[1]}])
    browser.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    browser.call("Emulation.setTouchEmulationEnabled", enabled=False)
    expected = browser.js("sides[0].toPlane([0.3 * sides[0].size[0], 0.7 * sides[0].size[1]])")
    np.testing.assert_allclose(latents(browser), expected, atol=2 / browser.js("sides[0].scale"))
