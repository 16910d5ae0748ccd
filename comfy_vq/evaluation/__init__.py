"""The ruler: how far a candidate model is from its reference, at how many bits per weight.

``run.evaluate`` measures and writes a report; ``bench.py`` is what it asks of a host.
"""

from .metrics import cosine, psnr_db, relative_l2, sqnr_db, ssim

__all__ = ["cosine", "psnr_db", "relative_l2", "sqnr_db", "ssim"]
