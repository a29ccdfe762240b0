"""The record of a run: one folder that holds all that is kept of it, with or without Ray and MLflow.

record.json          config, status (finished | failed), reason, one entry per epoch, parameter count
config.json          the TrialConfig alone, beside the weights it belongs to
weights.safetensors  the member's own weights, as ``cohort.load_model`` takes them
latents.npz          posterior means of the held-out images (n, latent_dim) float32, and their labels; up to 4,096 latents
pictures.npz         the first held-out images and their reconstructions, uint8 (n, channels, height, width)
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.torch import save_file

from fishernet.cohort import Cohort
from fishernet.config import TrialConfig
from fishernet.data.images import ImageData, ResidentImages
from fishernet.evaluation import latent_means, reconstructions
from fishernet.plan import Json, write_json
from fishernet.state import Record, checksum

N_PICTURES = 10
MOST_LATENTS = 4096  # of network pooled-cnn's 62,720 the file would be 2.5 GB


def write_records(folder: Path, cohort: Cohort, data: ImageData) -> None:
    """One record folder per member below ``folder``, named by its run_name; a failed member leaves its epochs and its reason."""
    images = ResidentImages.of(data.test, cohort.device)
    pictures = reconstructions(cohort, images, N_PICTURES)
    few = max(config.latent_dim for config in cohort.configs) <= MOST_LATENTS
    means = latent_means(cohort, images) if few else None
    counts = cohort.parameter_counts()
    for i, config in enumerate(cohort.configs):
        run = folder / config.run_name
        run.mkdir(parents=True, exist_ok=True)
        write_json(run / "config.json", config.to_dict())
        if i not in cohort.failures:
            metadata = {
                "config": json.dumps(config.to_dict()),
                "image_shape": json.dumps(data.image_shape),
                "n_train": str(len(data.train)),
            }
            weights = cohort.member_weights(i)
            metadata["checksum"] = checksum(json.dumps(metadata, sort_keys=True), weights)
            save_file(weights, run / "weights.safetensors", metadata)
            if means is not None:
                latents = {"means": means[i].numpy()}
                if data.test_labels is not None:
                    latents["labels"] = data.test_labels.numpy()
                np.savez_compressed(run / "latents.npz", **latents)  # type: ignore[arg-type]  # its stub takes no ** of arrays
            originals = data.test[:N_PICTURES].numpy()
            restored = pictures[i].numpy().reshape(originals.shape)
            np.savez_compressed(run / "pictures.npz", originals=originals, reconstructions=restored)
        # Written last: a folder with a record is complete.
        record = member_record(config, cohort.history[i], cohort.failures.get(i), stopped=i in cohort.stopped)
        write_json(run / "record.json", {**record, "n_parameters": counts[i]})


def write_failure(folder: Path, config: TrialConfig, epochs: Sequence[Record], reason: str) -> None:
    """The record folder of a run of which no model is left."""
    run = folder / config.run_name
    run.mkdir(parents=True, exist_ok=True)
    write_json(run / "config.json", config.to_dict())
    write_json(run / "record.json", member_record(config, epochs, reason))


def member_record(config: TrialConfig, epochs: Sequence[Record], failure: str | None, *, stopped: bool = False) -> Json:
    """What is kept of a run beside its weights; one that ``stopped`` early is finished."""
    status = "failed" if failure else "finished" if stopped or len(epochs) == config.epochs else "running"
    return {"config": config.to_dict(), "status": status, "reason": failure, "epochs": list(epochs)}
