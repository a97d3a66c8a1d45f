"""The methods that ISNet is compared with (docs/methods.md).

Each folder holds one method: `networks.py`, which take the picture as the method wants it; `loss.py`, its terms;
`generator.py`, the network that is served, from a picture in [0, 1] to one in [0, 1]; `step.py`, how a micro-batch adds
to the gradients. What they share is in `architecture.py` and `method.py` here, and in `isnet.training.players`.
"""

from __future__ import annotations

NAMES = ("edgeconnect", "pconv", "glcic", "ca", "lama", "aot_gan")
"""Names of `isnet.build` and `model.name`, each that of a folder here."""
