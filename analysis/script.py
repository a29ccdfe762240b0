"""Each command by a name of its own: ``python analysis/mse_curves.py`` is ``python -m analysis mse-curves``.

The files of those names are links to this one.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    if not __package__:  # started as a script: its own folder leads sys.path, and the packages are beside that folder
        sys.path[0] = str(Path(__file__).absolute().parents[1])
    from analysis.__main__ import script

    sys.exit(script(__file__)())
