"""What was meant by a word that is none of those known: the end of an error's sentence."""

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``. Did you mean VAE?`` of the known word that is most like ``word``, whatever the case; empty where none is."""
    names = {name.casefold(): name for name in known}
    begun = [name for name in names if len(word.lstrip("-")) > 1 and name.startswith(word.casefold())]
    close = begun or difflib.get_close_matches(word.casefold()[:100], names, n=1)
    return f". Did you mean {names[close[0]]}?" if close else ""
