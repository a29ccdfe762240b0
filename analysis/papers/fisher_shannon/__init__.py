"""Zheng, Yao, Zhang, Tsang, Wang: Understanding VAEs in Fisher-Shannon Plane (AAAI 2019).

The paper names few of its settings; the released code names the others, and only its convolutional FAE survives a first batch.
"""

from analysis.papers import Paper
from fishernet.config import Fields

DIM = 40  # of Tables 1 and 2
# What paper and code have in common. The fixed binarisation of Larochelle and Murray is not to be had: images are drawn anew.
SETTINGS: Fields = {
    "dataset": "mnist", "binarisation": "dynamic", "stopping_size": 10_000,
    "hidden_layers": 5, "hidden_width": 300, "initialisation": "he-normal", "optimiser": "adam-normalised",
    "batch_size": 100, "learning_rate": 1e-3, "epochs": 2000, "kl_warmup": 100, "patience": 50,
}  # fmt: skip
AXES: Fields = {"latent_dims": str(DIM), "seeds": "5"}
REVERSED = ("reversed-mnist", "reversed-mnist-released")  # of Table 2, as the paper words it and as its code has it
BETAS = (0.7, 0.85, 1.1, 1.2, 1.5, 2.0)  # of the VAEs that have about the KL divergence of an FAE
READINGS: tuple[Fields, ...] = (  # of F, beside the mean: what a line of it has
    {"fisher_constraint": "trace"}, {"fisher_constraint": "released-conv", "log_variance": "clamped"},
)  # fmt: skip
SMALL_DIMS = (2, 5, 10, 20)
DEPTHS = (20, 30, 40)  # hidden layers of Figure 6

PAPER = Paper(
    key="fisher-shannon",
    name="Fisher-Shannon paper",
    citation="Zheng, Yao, Zhang, Tsang, Wang: Understanding VAEs in Fisher-Shannon Plane. AAAI 2019",
    dataset="mnist",
    models=("FAE", "MAE", "IAF", "PixelVAE", "VAE"),
    preset={
        "models": ["VAE", "FAE", "FAE:fisher_target=0", "MAE", "MAE:information_target=0", "IAF", "PixelVAE"],
        **AXES, **SETTINGS,
    },
    presets={
        # Three dense layers are its default. Its flow is commented out and its MAE has no such term, so neither is here.
        "fisher-shannon-released": {
            "models": [
                "VAE", "FAE:fisher_constraint=released-mlp",
                "FAE:fisher_constraint=released-conv,log_variance=clamped,network=fae-28", "PixelVAE:pixel_mask=released",
            ],
            **AXES, **SETTINGS, "hidden_layers": 3,
        },
        "fisher-shannon-reversed": {
            "models": ["FAE", "FAE:fisher_target=10", "FAE:fisher_target=5", "FAE:fisher_target=0.1"],
            **AXES, **SETTINGS, "dataset": REVERSED[0],
        },
        "fisher-shannon-controls": {  # what the claims ask beside the paper's lines
            "models": [
                "FAE:fisher_target=10", "FAE:fisher_target=5", "FAE:fisher_target=0.1",
                *(f"VAE:kl_weight={beta:g}" for beta in BETAS),
                *(f"FAE:{','.join(f'{k}={v}' for k, v in own.items())}{F}" for own in READINGS for F in ("", ",fisher_target=0")),
                "FAE:fisher_constraint=released-mlp",
            ],
            **AXES, **SETTINGS,
        },
        "fisher-shannon-fishernet": {  # where FisherNet lies, beside VAEs of the paper's pixels and of its own
            "models": ["FisherNet", "VAE", "VAE:likelihood=gaussian-learned"],
            **AXES, **SETTINGS, "latent_dims": ",".join(map(str, SMALL_DIMS)),
        },
        "fisher-shannon-deep": {  # of Figure 6
            "models": [
                f"{model}:hidden_layers={depth},setting={depth}-layers" for depth in DEPTHS for model in ("FAE", "MAE")
            ],
            **AXES, **SETTINGS,
        },
    },
    figures={
        "fisher_shannon_plane": (
            "Figure 1",
            "The paper's Figure 1 has its models on a curve N J = K, on axes without d, J to the right and N up.",
        ),
        "fisher_shannon_path": ("Figure 1", "The paper's shows one FAE that moves along its curve."),
        "nll": (
            "Tables 1 and 2",
            "The paper's numbers are of 5,000 draws an image, of MNIST in another, fixed binarisation, and of the best settings "
            "that it found: they stand beside these for orientation. As many draws by `--draws 5000 --nll-images 0`.",
        ),
        "fisher_targets": ("Section 5.3", "The paper says in words that large F reconstructs better, and small F tells classes."),
        "embeddings": (
            "Figures 2 and 6",
            "The paper shows an FAE of d = 10 at several F, and FAE and MAE of 20 to 40 layers, and is silent on t-SNE's scale.",
        ),
        "radii": ("Figure 2", "The released code divides the distance by d, which the paper's axis does not fit."),
        "traversals": ("Figure 4", "The paper shows F = 20 and 0.1."),
        "reconstructions": (
            "Figures 3, 5, 6 and 7",
            "The paper shows F = 20 and 0 on MNIST and SVHN, four F on reversed MNIST, and networks of 20 to 40 layers.",
        ),
    },
    tables={"nll": "nll.csv"},
    arguments={
        "fisher-shannon-plane": {"of_path": "FAE", "beside": "VAE"},
        "likelihood": {"nll_of": ("held-out", "training")},
        "information": {},
        "embeddings": {},
        "traversals": {},
    },
)  # fmt: skip
