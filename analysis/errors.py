"""What an analysis raises where it cannot show what was asked for."""


class AnalysisError(RuntimeError):
    """What was asked for cannot be drawn; the message is a sentence for whoever typed the command."""
