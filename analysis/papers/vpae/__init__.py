"""Ciobanu: Vanilla Probabilistic Autoencoder (EPiC Series in Computing 79, 2021)."""

from collections.abc import Mapping

from analysis.papers import Paper
from fishernet.config import Fields
from fishernet.families import trial_config

Line = tuple[str, int]  # a row of the paper's tables by its name, and its K
DIM, CNN_DIM = 32, 320 * 14 * 14  # latent dimensions: of Table 1, and of the pooled convolution of Table 2
# Fields of a line's config beside those that all lines share. Released floors: 1e-6 of a standard deviation, which is the
# default, and 1e-5 of a triangle's diagonal.
TRIANGLE: Fields = {"scale": "full", "cholesky_of": "covariance", "least_scale": "1e-5"}
SCALES: Mapping[str, Fields] = {"": {}, "diag": {"scale": "diagonal"}, "full": TRIANGLE}


def _emitted(name: str, likelihood: str, names: tuple[str, str], k: int) -> dict[Line, Fields]:
    """The rows of one family: its identity, diagonal and full scale."""
    usual = {} if likelihood == "gaussian" else {"likelihood": likelihood}
    suffixes = ("", *names)
    return {
        (name + suffix, k): {"model": "AE", **usual, **scale, "components": k}
        for suffix, scale in zip(suffixes, SCALES.values(), strict=True)
    }


VECTOR, MATRIX = ("_diagSigma", "_Sigma"), ("_diagUV", "_U_V")
_CODE: Fields = {"code": "rectified"}
# Of Table 1, in its order. With unit scale N_mu and MN_mu are one model, and t and T as well.
_OF_TABLE_1: dict[Line, Fields] = {
    ("MSE", 1): {"model": "AE"},
    **_emitted("N_mu", "gaussian", VECTOR, 1),
    **_emitted("t_df_mu", "student-t", VECTOR, 1),
    ("MAF", 1): {"model": "AE", "likelihood": "maf"},
    **_emitted("MN_mu", "matrix-normal", MATRIX, 1),
    **_emitted("T_df_mu", "matrix-t", MATRIX, 1),
    ("VAE", 1): {
        "model": "VAE", "likelihood": "gaussian", "scale": "diagonal", "posterior_sd": "softplus-sd", "kl_weight": "2",
    },
    **_emitted("N_mu", "gaussian", VECTOR, 10),
    **_emitted("t_df_mu", "student-t", VECTOR, 10),
    **_emitted("MN_mu", "matrix-normal", MATRIX, 10),
    **_emitted("T_df_mu", "matrix-t", MATRIX, 10),
}  # fmt: skip
TABLE_1 = {
    line: fields | _CODE
    for line, fields in _OF_TABLE_1.items()
    if line not in (("N_mu_Sigma", 10), ("t_df_mu_Sigma", 10))  # 100 million weights, which the paper has not either
}
# Of Table 2. Its network rectifies the code by itself.
TABLE_2: dict[Line, Fields] = {
    line: fields | {"network": "pooled-cnn", "output_order": "channels-last"}
    for k in (1, 10)
    for name, likelihood in (("MN_mu", "matrix-normal"), ("T_df_mu", "matrix-t"))
    for line, fields in _emitted(name, likelihood, MATRIX, k).items()
}
# Ours, of what the paper's rows leave open: an autoencoder with as many weights as a mixture of 10 normals; factors of the
# precision matrix; floors of half a grey level and of 0.05; densities of dequantised images; places where they are shown.
PRECISION = {**TRIANGLE, "cholesky_of": "precision-matrix"}
N_DIAG = TABLE_1["N_mu_diagSigma", 1]
CONTROLS: dict[Line, Fields] = {
    ("MSE, wide decoder", 1): {"model": "AE", "decoder_layers": 1, "hidden_width": 256, "setting": "wide", **_CODE},
    ("MN_mu_U_V, precision", 1): {**TABLE_1["MN_mu_U_V", 1], **PRECISION},
    ("T_df_mu_U_V, precision", 1): {**TABLE_1["T_df_mu_U_V", 1], **PRECISION},
    ("N_mu_diagSigma, least sd 1/512", 1): {**N_DIAG, "least_scale": 1 / 512, "setting": "least-sd-1-512"},
    ("N_mu_diagSigma, least sd 0.05", 1): {**N_DIAG, "least_scale": 0.05, "setting": "least-sd-0.05"},
    ("N_mu, dequantised", 1): {**TABLE_1["N_mu", 1], "dequantisation": "uniform-noise"},
    ("N_mu_diagSigma, dequantised", 1): {**N_DIAG, "dequantisation": "uniform-noise"},
    ("N_mu_diagSigma, dequantised", 10): {**TABLE_1["N_mu_diagSigma", 10], "dequantisation": "uniform-noise"},
    ("8-bit logistic", 1): {"model": "AE", "likelihood": "discretised-logistic", "decoder_output": "linear", **_CODE},
}
CNN_CONTROLS: dict[Line, Fields] = {
    ("MN_mu, channels first", k): {**TABLE_2["MN_mu", k], "output_order": "channels-first"} for k in (1, 10)
}
# Full covariances: an hour and more each on one core and 2.7 GB, 1.5 GB more for each further seed of a cohort; --models trains
# them.
COSTLY = (("N_mu_Sigma", 1), ("t_df_mu_Sigma", 1))
SHARED: Fields = {
    "dataset": "mnist", "epochs": 20, "batch_size": 128, "learning_rate": 1e-3, "hidden_layers": 0,
    "decoder_output": "linear", "initialisation": "glorot-uniform", "evaluate_every": 5,
}  # fmt: skip


# Which models its Figure 3 is of the paper does not say beyond "six MLP models"; these differ the most.
FIGURE_3 = tuple(
    trial_config({**SHARED, **TABLE_1[name, 1]}).variant for name in ("MSE", "N_mu", "N_mu_diagSigma", "t_df_mu", "MAF", "VAE")
)  # fmt: skip


def flag(line: Fields) -> str:
    """The line as --models takes it: ``AE:likelihood=student-t,components=10,code=rectified``."""
    return f"{line['model']}:{','.join(f'{name}={value}' for name, value in line.items() if name != 'model')}"


PAPER = Paper(
    key="vpae",
    name="VPAE paper",
    citation="Ciobanu: Vanilla Probabilistic Autoencoder. EPiC Series in Computing 79, 2021",
    dataset="mnist",
    other_datasets=("fashion-mnist",),
    models=("AE", "VAE"),
    own_model=False,
    preset={
        "models": [flag(fields) for line, fields in TABLE_1.items() if line not in COSTLY],
        "latent_dims": str(DIM), "seeds": "5", **SHARED,
    },
    presets={
        "vpae-cnn": {
            "models": [flag(fields) for fields in TABLE_2.values()],
            "latent_dims": str(CNN_DIM), "seeds": "5", **SHARED,
        },
        "vpae-controls": {
            "models": [flag(fields) for fields in CONTROLS.values()],
            "latent_dims": str(DIM), "seeds": "3", **SHARED,
        },
        "vpae-cnn-reduced": {
            "models": [flag(fields) for fields in [*TABLE_2.values(), *CNN_CONTROLS.values()]],
            "latent_dims": str(CNN_DIM), "seeds": "1", **SHARED, "train_size": 12_000, "epochs": 8,
        },
        "vpae-fishernet": {
            "models": [
                f"FisherNet:{own}"
                for own in (
                    "likelihood=gaussian-learned", "likelihood=gaussian,scale=diagonal", "likelihood=student-t",
                    "likelihood=matrix-normal,scale=diagonal", "likelihood=gaussian,scale=diagonal,information_about=location",
                )
            ],
            "latent_dims": "2,5,10", "seeds": "3", "dataset": "mnist", "epochs": 10, "hidden_width": 128,
            "learning_rate": 1e-3, "batch_size": 128, "least_scale": 1 / 512, "noise_start": -4.0, "decoder_output": "linear",
            "evaluate_every": 5, "dequantisation": "uniform-noise",  # as bits per dimension are compared
        },
    },
    figures={
        "outputs": (
            "Tables 1 and 2",
            "The paper has one run of each row. It names MSE what is here the AE without further words; its T is the "
            "multivariate t of the image's vector, so that with unit scale T is t and MN is N. Its FID is the released code's, "
            "a distance to uniform noise, by which the test images have 485.073 (MNIST) and 586.867 (Fashion-MNIST).",
        ),
        "variances": (
            "Figures 1 and 2",
            "The paper shows variances of Fashion-MNIST, of matrix families the product of the scales' diagonals, "
            "which is no variance.",
        ),
        "draws": (
            "Figure 3",
            "The paper has them of six MLP models, which it does not name.",
        ),
        "embeddings": ("Figure 3", "The paper embeds 10,000 codes of each of six MLP models by themselves."),
        "components": ("Figure 4", "The paper shows N_mu, N_mu_diagSigma, t_df_mu and MN_mu_U_V with the density at each mode."),
    },
    tables={"outputs": "tables_1_2.csv"},
    arguments={
        "distances": {"to_noise": True, "images": ("reconstruction", "densest_mode", "draws", "rectified")},
        "distributions": {"drawn": FIGURE_3},
        "embeddings": {"lines": FIGURE_3},
    },
)  # fmt: skip
