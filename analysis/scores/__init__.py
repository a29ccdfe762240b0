"""What is computed from a trained model: distances between sets of images, latent densities, clusters."""
