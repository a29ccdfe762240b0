"""What the FisherNet paper reports (Zacherl, Frank, Enßlin, Entropy 23:1640, 2021), as DataFrames."""

from importlib import resources

import pandas as pd

DATASET = "fashion-mnist"
NAMES = {"rec": "reconstruction", "sample": "prior", "mkde": "mkde"}  # Table 1's rows as the image sets are called here


def table_1(dataset: str = DATASET) -> pd.DataFrame:
    """FID against the test images: model, images (reconstruction, prior, mkde), latent_dim, value. One run each.

    Empty for another data set than the paper's.
    """
    table = _read("table1_fid.csv", dataset).rename(columns={"fid_published": "value"})
    return table.assign(images=table["fid_kind"].map(NAMES))[["model", "images", "latent_dim", "value"]]


def table_a2(dataset: str = DATASET) -> pd.DataFrame:
    """Trace of the overlap of labels and clusters: model, latent_dim, value. One run each; 10 is perfect.

    Empty for another data set than the paper's.
    """
    return _read("tableA2_cluster_trace.csv", dataset).rename(columns={"cluster_trace": "value"})


def _read(name: str, dataset: str) -> pd.DataFrame:
    with resources.files(__package__).joinpath(name).open(encoding="utf-8") as file:
        table = pd.read_csv(file)
    return table if dataset == DATASET else table.iloc[:0]
