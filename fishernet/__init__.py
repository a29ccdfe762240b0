"""Probabilistic autoencoders and how a cohort of them is trained; torch and numpy, never Ray or MLflow."""
