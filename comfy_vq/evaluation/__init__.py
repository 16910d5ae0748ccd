"""The ruler: how far a candidate model is from its reference, at how many bits per weight."""

from .metrics import psnr_db, relative_l2, sqnr_db

__all__ = ["psnr_db", "relative_l2", "sqnr_db"]
