"""What the latent of the demo model is: a picture's pooled colour and colourfulness.

The latent is defined rather than discovered: the mean of red, green, blue and chroma over each
8x8 block, standardised over the training scenes. It is smooth, has zero mean and unit variance
per channel, and keeps a shape's outline as the part of each block that the shape covers. The
encoder learns to compute it, and the decoder to draw the picture back from it. So the denoiser
need not wait for the autoencoder: both can be trained at once.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

# Mean and standard deviation of the pooled channels over pictures of the training scenes.
_MEAN = torch.tensor([0.8618, 0.8514, 0.8169, 0.1331]).view(4, 1, 1)
_STD = torch.tensor([0.1858, 0.1759, 0.2077, 0.1995]).view(4, 1, 1)


def pooled(pictures: torch.Tensor) -> torch.Tensor:
    """Red, green, blue and chroma (largest less smallest of the three), each a mean over 8x8.

    Args:
        pictures: [n, 3, height, width] in [0, 1]; both sides are multiples of 8.

    Returns:
        [n, 4, height / 8, width / 8] in [0, 1].
    """
    chroma = pictures.amax(1, keepdim=True) - pictures.amin(1, keepdim=True)
    return F.avg_pool2d(torch.cat((pictures, chroma), 1), 8)


def latents(pictures: torch.Tensor) -> torch.Tensor:
    """The latent as the denoiser sees it (after SD1.5's scale factor); shapes as in `pooled`."""
    return (pooled(pictures) - _MEAN.to(pictures.device)) / _STD.to(pictures.device)
