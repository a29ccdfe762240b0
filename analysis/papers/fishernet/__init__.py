"""Zacherl, Frank, Enßlin: Probabilistic Autoencoder Using Fisher Information (Entropy 23:1640, 2021)."""

from analysis.papers import Paper

DIMS = (2, 5, 10, 15, 20)  # of Tables 1 and A2

PAPER = Paper(
    key="fishernet",
    name="FisherNet paper",
    citation="Zacherl, Frank, Enßlin: Probabilistic Autoencoder Using Fisher Information. Entropy 23:1640, 2021",
    dataset="fashion-mnist",
    models=("FisherNet", "VAE", "CVAE"),
    # AE is a yardstick that the paper does not have.
    preset={"models": ["FisherNet", "VAE", "CVAE", "AE"], "latent_dims": "2-20", "seeds": "5"},
    figures={
        "loss_and_mse": (
            "Figure 1",
            "The axes of the paper's figure, for Fashion-MNIST, are ticked from −1300 to −950 nats and from 0.009 to 0.023.",
        ),
        "mse_curves": (
            "Figure 2",
            "The paper's axis runs from 0.010 to 0.0275, its VAE levels off at about 0.0175.",
        ),
        "mse_by_epoch": ("Figure 3", "The paper shows 50 epochs on an axis from 0.010 to 0.040."),
        "latent_means": (
            "Figure 4",
            "The paper's Figure 4 shows FisherNet, VAE and CVAE, mirrored where that makes them more alike; here nothing is "
            "mirrored.",
        ),
        "uncertainty_of_one_image": (
            "Figure 5",
            "Ellipses are from M⁻¹ (equation 20) for FisherNet and from the encoder's variances for VAE and CVAE. The paper's "
            "Figure 5 shows one image of FisherNet, whose ellipse is smaller and tilted, and of the VAE.",
        ),
        "uncertainty_of_classes": (
            "Figure 6",
            "The paper's Figure 6 shows Fashion-MNIST's three classes of shoes for FisherNet, with tilted ellipses that are "
            "larger at the periphery, and for the VAE.",
        ),
        "ellipse_sizes": (
            "",
            "The paper says of its Figures 5 and 6 that FisherNet's ellipses are smaller than the VAE's, tilted, and larger at "
            "the periphery.",
        ),
        "prior_samples_d02": ("Figure 7", "The paper's Figures 7 and 8 show FisherNet, VAE and CVAE at d = 2 and 15."),
        "prior_samples_d15": ("Figure 8", "The paper's Figures 7 and 8 show FisherNet, VAE and CVAE at d = 2 and 15."),
        "density_samples": (
            "Figure 9",
            "The paper's Figure 9 shows FisherNet with Matérn kernel density estimation (MKDE).",
        ),
        "density_samples_images_d05": ("Figure 10", "The paper's Figure 10 shows FisherNet at d = 5 with MKDE."),
        "frechet_inception": ("Table 1", ""),
        "frechet_classifier": ("Table 1", ""),
        "cluster_trace": ("Table A2", "The paper has one run of each model."),
        "cluster_overlap": ("Figure A1", ""),
    },
    tables={"frechet_inception": "table_1.csv", "frechet_classifier": "table_1.csv", "cluster_trace": "table_a2.csv"},
    arguments={
        "mse-curves": {"usual_dims": (2, 5, 10)},
        "loss-curves": {"models": ("FisherNet",), "usual_dims": (2, 5, 10)},
        "latent-space": {"models": ("FisherNet", "VAE", "CVAE"), "of_uncertainty": ("FisherNet", "VAE")},
        "samples": {"models": ("FisherNet", "VAE", "CVAE"), "of_density": ("FisherNet",),
                    "prior_dims": (2, 15), "density_dims": (5,)},
        "distances": {"usual_dims": DIMS, "slow_images": ("mkde",)},
        "clusters": {"usual_dims": (5,)},
    },
)  # fmt: skip
