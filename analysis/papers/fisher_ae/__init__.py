"""Elkhalil, Hasan, Ding, Farsiu, Tarokh: Fisher Auto-Encoders (2020)."""

from analysis.papers import Paper

# Its order 5 is odd and so no density, whatever its parameters.
EXPONENTIAL = "prior=exponential,prior_order=5,prior_top=free"
DENSITY = "prior=exponential"  # of order 4, of which exact samples and the KL divergence are known
RELEASED = "stability=total,posterior_gradient=held"
TRAINING = {"learning_rate": 2e-4, "adam_beta1": 0.5, "batch_size": 128}  # section 4

PAPER = Paper(
    key="fisher-ae",
    name="Fisher auto-encoder paper",
    citation="Elkhalil, Hasan, Ding, Farsiu, Tarokh: Fisher Auto-Encoders. arXiv 2007.06120, 2020",
    dataset="mnist",
    other_datasets=("celeba",),
    models=("FisherAE", "VAE", "WAE"),
    # The VAE with the Fisher auto-encoder's own likelihood is a line that the paper does not have.
    preset={
        "models": ["FisherAE", f"FisherAE:{EXPONENTIAL}", "VAE", "VAE:likelihood=gaussian", "WAE"],
        "latent_dims": "8", "seeds": "5", "dataset": "mnist", "network": "fisherae-28", "epochs": 100, **TRAINING,
    },
    presets={
        # What tells the paper's parts from one another: trained into the sweep of its preset, by --name. Without the stability
        # term and with it as released; the VAE with the prior, or with the term; what was trained on noisy images; learned noise.
        "fisher-ae-controls": {
            "models": [
                "FisherAE:stability_weight=0", "FisherAE:stability=total", f"FisherAE:{RELEASED}", f"FisherAE:{DENSITY}",
                f"VAE:{DENSITY}", "VAE:stability_weight=1", f"VAE:likelihood=gaussian,{DENSITY}",
                "VAE:likelihood=gaussian,stability_weight=1", "AE:input_noise=0.2", "VAE:input_noise=0.2",
                "VAE:likelihood=gaussian-learned", "FisherAE:likelihood=gaussian-learned",
            ],
            "latent_dims": "8", "seeds": "5", "dataset": "mnist", "network": "fisherae-28", "epochs": 100, **TRAINING,
        },
        # The losses of the released scripts, and the training of the released notebook on MNIST. Its second hidden layer has
        # 256 neurons, its prior order 8. The critic's width, rates and weight, that of a mean over pixels in [-1, 1], are of the
        # script on CelebA.
        "fisher-ae-released": {
            "models": [
                f"FisherAE:{RELEASED}",
                f"FisherAE:{RELEASED},prior=exponential,prior_order=4,prior_top=free,prior_start=scattered",
                "VAE:likelihood=gaussian",
                "WAE:penalty=critic,penalty_weight=98,learning_rate=1e-4,discriminator_width=128,"
                "discriminator_learning_rate=1e-5",
            ],
            "latent_dims": "10", "seeds": "5", "dataset": "mnist", "hidden_width": 512, "hidden_layers": 2, "epochs": 21,
            "learning_rate": 1e-3, "batch_size": 100,
        },
        "fisher-ae-celeba": {
            "models": [
                "FisherAE", f"FisherAE:{EXPONENTIAL}", f"FisherAE:{DENSITY}", "VAE:likelihood=gaussian",
                "WAE:penalty_weight=1000",
            ],
            "latent_dims": "64", "seeds": "5", "dataset": "celeba",
            "network": "fisherae-64", "pixel_range": "symmetric", "epochs": 100, **TRAINING,
        },
    },
    figures={
        "robustness_curves": (
            "Figures 1, 5, 7 and 9",
            "The paper shows cross-entropy on MNIST against noise (1) and mask (7), the MSE on CelebA likewise (5, 9), three "
            "models, one run. Its MSE is of pixels in [-1, 1], four times ours; its bands are over batches of 128 images, ours "
            "over seeds. The released scripts take the levels for standard deviations, where the axis says variance.",
        ),
        "noisy_reconstructions": (
            "Figures 2, 6, 8 and 10",
            "The paper's have noise of variance 0.2 on MNIST (2), and on CelebA (6) of 2 in [-1, 1], which is 0.5 here, or 80% "
            "of the pixels masked (8, 10). The released scripts draw CelebA at a standard deviation of 1.78 and 89% masked. Rows "
            "of clean images and of samples are pictures of their own here: reconstructions, prior_samples_images.",
        ),
        "tsne_nmi": (
            "Figure 3", "The paper shows NMI after t-SNE alone, and not of how many images nor with which perplexity."
        ),
        "tsne": ("Figure 4", "The paper's levels are not named in its text."),
        "frechet_inception": (
            "Table 1",
            "The paper's distances are of CelebA, by other weights, of 960 images whose grey values are shifted on their way in; "
            "each ± is of ten draws from one checkpoint, the best of 301 by that distance. They do not compare with these.",
        ),
    },
    arguments={
        "corruptions": {},  # at the levels that they have without a paper, among which are this one's
        "prior-densities": {},
        "posterior-widths": {},
        "t-sne-clusters": {},
        "t-sne": {},
        # Of learned priors as the paper draws them, and of N(0, 1) what that sampler alone would do.
        "distances": {"images": ("reconstruction", "prior", "mixture", "svgd", "tempered")},
        "samples": {"models": ("FisherAE", "VAE", "WAE"), "of_density": ("FisherAE", "VAE"), "density": "svgd"},
    },
)  # fmt: skip
