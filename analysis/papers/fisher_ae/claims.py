"""What the Fisher auto-encoder paper claims."""

from __future__ import annotations

from analysis.verdicts import Claim
from fishernet.config import TrialConfig

EPOCHS = 100  # section 4
EPOCH_DIMS: tuple[int, ...] = ()
ASKED: tuple[TrialConfig, ...] = ()
NOTE = ""
CLAIMS: tuple[Claim, ...] = ()
