"""Bridge to the kernels folder, which lies beside this package in a checkout and inside it in a wheel.

That folder carries no ``__init__.py``, so that a checkout on ``sys.path`` never shadows another
package called ``kernels``. This module turns itself into a package over it.
"""

from pathlib import Path
from typing import TYPE_CHECKING

_here = Path(__file__).resolve().parent
__path__ = [str(next(p for p in (_here / "kernels", _here.parent / "kernels") if p.is_dir()))]
if __spec__ is not None:
    __spec__.submodule_search_locations = __path__

if TYPE_CHECKING:
    from ..kernels import scratch as scratch
    from ..kernels.batches import batches as batches
    from ..kernels.batches import decodes_in_batches as decodes_in_batches
    from ..kernels.coded import Additive as Additive
    from ..kernels.coded import Coded as Coded
    from ..kernels.coded import Int8 as Int8
    from ..kernels.coded import Trellis as Trellis
    from ..kernels.dispatch import OPERATIONS as OPERATIONS
    from ..kernels.dispatch import best_path as best_path
    from ..kernels.dispatch import decode_bytes as decode_bytes
    from ..kernels.dispatch import explain as explain
    from ..kernels.hadamard import Rotation as Rotation
    from ..kernels.hadamard import rotate as rotate
    from ..kernels.hadamard import sign_vector as sign_vector
    from ..kernels.hadamard import unrotate as unrotate
    from ..kernels.library import decode as decode
else:
    from .kernels import scratch
    from .kernels.batches import batches, decodes_in_batches
    from .kernels.coded import Additive, Coded, Int8, Trellis
    from .kernels.dispatch import OPERATIONS, best_path, decode_bytes, explain
    from .kernels.hadamard import Rotation, rotate, sign_vector, unrotate
    from .kernels.library import decode

__all__ = [
    "OPERATIONS",
    "Additive",
    "Coded",
    "Int8",
    "Rotation",
    "Trellis",
    "batches",
    "best_path",
    "decode",
    "decode_bytes",
    "decodes_in_batches",
    "explain",
    "rotate",
    "scratch",
    "sign_vector",
    "unrotate",
]
