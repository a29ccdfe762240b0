"""The numbers that papers publish, as DataFrames."""

from importlib import resources

import pandas as pd

from analysis.papers import Paper


def tables(paper: Paper | None, dataset: str) -> dict[str, pd.DataFrame]:
    """Stem of an exhibit -> published numbers on that data set: variant, value, latent_dim and what else tells rows apart.

    Empty where the paper has another data set. A table of several data sets has a column ``dataset``.
    """
    if paper is None:
        return {}
    found = {}
    for stem, name in paper.tables.items():
        with resources.files(paper.package).joinpath(name).open(encoding="utf-8") as file:
            table = pd.read_csv(file)
        of_dataset = table["dataset"] if "dataset" in table else pd.Series(paper.dataset, index=table.index)
        if (of_dataset == dataset).any():
            found[stem] = table[of_dataset == dataset]
    return found
