"""Command-line drivers: a plan of trial configs, trained by Ray Tune, recorded in MLflow by the driver alone."""
