"""What is asked of other programs: the one package of fishernet/ that imports MLflow, and which the others never import."""
