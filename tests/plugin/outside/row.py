"""The row of the model, without torch."""

from dataclasses import dataclass

from fishernet.config import between, field
from fishernet.families import Family, VAEConfig


@dataclass(frozen=True)
class NormConfig(VAEConfig):
    """A VAE's fields and one more."""

    norm_width: int = field(
        24,
        "neurons of the normalised layer",
        role="size",
        valid=between(1, 1000),
        must="from 1 to 1000",
        search="16,24,32",
    )


FAMILY = Family("NormVAE", NormConfig, "outside.model:NormVAE", padded=False)
