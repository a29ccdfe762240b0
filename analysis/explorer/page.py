"""The explorer as one HTML page that holds everything itself: images, codes and weights; it opens from a folder, offline."""

from __future__ import annotations

import base64
import hashlib
import json
from html import escape
from importlib import resources
from typing import Any

import numpy as np

from analysis.explorer.decoders import packed
from analysis.explorer.gather import Run, Shown

HELP = (
    (
        "Pointer",
        "the point follows it; a click takes the nearest dot and holds it, another lets go; drag moves the map",
    ),
    ("Wheel, + and −", "zoom; 0 shows all"),
    ("Arrows", "move the point, with Shift faster; Enter takes the code of the nearest image"),
    ("Finger", "moves the point, a tap takes the nearest dot, two fingers move and zoom the map"),
)


def render(name: str, shown: Shown) -> str:
    """The page as HTML. Its policy lets no script and no style run but its own, and nothing be loaded."""
    files = resources.files("analysis.explorer")
    report = resources.files("analysis").joinpath("page.css").read_text("utf-8")
    css = report[: report.index("\n* {")] + files.joinpath("page.css").read_text("utf-8")  # the report's colours
    script = "\n".join(files.joinpath(part).read_text("utf-8") for part in ("decoder.js", "page.js"))
    title = f"{name}: latent explorer"
    runs = "\n".join(_data(f"run-{i}", _run(run)) for i, run in enumerate(shown.runs))
    keys = "\n".join(f"<div><dt>{escape(key)}</dt><dd>{escape(does)}</dd></div>" for key, does in HELP)
    several = " Both maps mark the image whose code is nearest to it." if len(shown.runs) > 1 else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src {_hash(css)}; \
script-src {_hash(script)}; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{css}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
<p>Move over a map: the point under the pointer is decoded as you go.{several}</p>
<div id="classes" role="group" aria-label="Classes to pick out"></div>
</header>
<main id="sides"></main>
<template id="side">
<section class="side">
<div class="head">
<select aria-label="Run"></select>
<p class="about"></p>
<div class="zoom">
<button type="button" aria-label="Zoom in">+</button>
<button type="button" aria-label="Zoom out">−</button>
<button type="button">All</button>
</div>
</div>
<div class="map"><canvas tabindex="0" role="application"></canvas></div>
<div class="shown">
<figure class="decoded"><canvas role="img" aria-label="The decoded image"></canvas><figcaption></figcaption></figure>
<figure class="image"><canvas role="img" aria-label="The nearest image"></canvas><figcaption></figcaption></figure>
<figure class="reconstruction"><canvas role="img" aria-label="The nearest image's reconstruction"></canvas>\
<figcaption>Its reconstruction</figcaption></figure>
</div>
<p class="note"></p>
<details class="latents"><summary></summary><div class="sliders"></div></details>
</section>
</template>
<footer>
<details id="about">
<summary>Keys, and what is here</summary>
<dl>
{keys}
<div><dt>Images</dt><dd>{len(shown.images)} {escape(shown.held_out)} images of {escape(shown.dataset)}</dd></div>
<div><dt>Speed</dt><dd id="speed"></dd></div>
</dl>
</details>
<p id="said" role="status"></p>
</footer>
{_data("shared", _shared(shown))}
{runs}
<script>{script}</script>
</body>
</html>
"""


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _data(anchor: str, value: Any) -> str:
    """JSON that no markup can end."""
    return f'<script type="application/json" id="{anchor}">{json.dumps(value).replace("<", chr(92) + "u003c")}</script>'


def _shared(shown: Shown) -> dict[str, Any]:
    return {
        "shape": shown.images.shape[1:],
        "images": base64.b64encode(shown.images.tobytes()).decode(),
        "indices": shown.indices.tolist(),
        "labels": None if shown.labels is None else shown.labels.tolist(),
        "classes": list(shown.classes),
        "colours": list(shown.colours),
        "runs": [{"name": run.name, "about": run.about} for run in shown.runs],
    }


def _run(run: Run) -> dict[str, Any]:
    plane, grid = run.plane, run.grid
    return {
        "colour": run.colour,
        "d": run.codes.shape[1],
        "codes": packed(run.codes),
        "origin": plane.origin.tolist(),
        "axes": plane.axes.tolist(),
        "names": plane.names,
        "ellipses": None if run.ellipses is None else packed(run.ellipses.astype(np.float32)),
        "prior": run.prior,
        "posterior": run.posterior,
        "decoder": run.decoder,
        "grid": grid and {
            "low": grid.low.tolist(),
            "high": grid.high.tolist(),
            "side": len(grid.images),
            "images": base64.b64encode(grid.images.tobytes()).decode(),
        },
    }  # fmt: skip
