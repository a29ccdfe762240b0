"""From MLflow runs to one tidy DataFrame, and from it to figures and tables; never retrains."""
