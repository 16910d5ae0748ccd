"""The autoencoder, in the layout of TAESD, so that ComfyUI's VAE loader reads its one file.

The encoder learns to compute the latent that `latents` defines, the decoder to draw the picture
back from it. Both work on pictures in [0, 1].
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from training.latents import latents

_WIDTH = 64
# How far the sampled latents that the decoder must cope with stray, as a standard deviation.
_LATENT_NOISE = 0.15


def _conv(inputs: int, outputs: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=bias)


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(3):
            layers += [_conv(_WIDTH, _WIDTH), nn.ReLU()]
        self.conv = nn.Sequential(*layers[:-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.conv(x) + x)


class _SoftClamp(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 3 * torch.tanh(x / 3)


def _encoder() -> nn.Sequential:
    layers: list[nn.Module] = [_conv(3, _WIDTH), _Residual()]
    for _ in range(3):
        layers += [_conv(_WIDTH, _WIDTH, stride=2, bias=False), *(_Residual() for _ in range(3))]
    return nn.Sequential(*layers, _conv(_WIDTH, 4))


def _decoder() -> nn.Sequential:
    layers: list[nn.Module] = [_SoftClamp(), _conv(4, _WIDTH), nn.ReLU()]
    for _ in range(3):
        layers += [*(_Residual() for _ in range(3)), nn.Upsample(scale_factor=2)]
        layers += [_conv(_WIDTH, _WIDTH, bias=False)]
    return nn.Sequential(*layers, _Residual(), _conv(_WIDTH, 3))


class Autoencoder(nn.Module):
    """Encoder, decoder, and the scale and shift between their latent and the stored one.

    With `vae_scale` set to SD1.5's scale factor, the encoder's own output is the latent that
    the denoiser sees, and what ComfyUI hands over is that divided by the factor.
    """

    def __init__(self) -> None:
        super().__init__()
        self.taesd_encoder = _encoder()
        self.taesd_decoder = _decoder()
        self.register_buffer("vae_scale", torch.tensor(0.18215))
        self.register_buffer("vae_shift", torch.tensor(0.0))

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        """[n, 3, h, w] in [0, 1] to the denoiser's latents [n, 4, h / 8, w / 8]."""
        return self.taesd_encoder(pictures)

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """The denoiser's latents [n, 4, h, w] to pictures [n, 3, 8 h, 8 w] in [0, 1]."""
        return self.taesd_decoder(latent).clamp(0, 1)


def _crops(pictures: torch.Tensor, count: int, chance: torch.Generator) -> torch.Tensor:
    """Random 32x32 crops on the latent's grid, as floats in [0, 1]."""
    x, y = (8 * int(torch.randint(5, (1,), generator=chance)) for _ in range(2))
    chosen = torch.randint(len(pictures), (count,), generator=chance)
    return pictures[chosen, :, y : y + 32, x : x + 32].float() / 255


def train(
    pictures: torch.Tensor,
    device: torch.device,
    checkpoint: Path,
    steps: int = 1500,
    batch: int = 16,
    peak: float = 1e-3,
) -> Autoencoder:
    """Train encoder and decoder, or go on from the checkpoint.

    Args:
        pictures: uint8 [n, 3, 64, 64].
        device: where to train.
        checkpoint: the file to save to every 100 steps; read first if it exists.
        steps: the length of the run, counting steps taken before a resume.
        batch: 32x32 crops per step.
        peak: the highest learning rate; it falls linearly to zero over the run.

    Returns:
        The trained autoencoder, on the device.
    """
    torch.manual_seed(0)
    model = Autoencoder().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99), weight_decay=0, fused=True)
    first = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["step"]
    chance = torch.Generator().manual_seed(first + 1)
    started = time.monotonic()
    for step in range(first + 1, steps + 1):
        crops = _crops(pictures, batch, chance).to(device)
        target = latents(crops)
        encoder_loss = F.mse_loss(model.taesd_encoder(crops), target)
        # A different noise level for each crop, none included.
        level = _LATENT_NOISE * torch.rand(batch, 1, 1, 1, generator=chance)
        noise = (level * torch.randn(target.shape, generator=chance)).to(device)
        decoder_loss = F.mse_loss(model.taesd_decoder(target + noise), crops)
        (encoder_loss + 10 * decoder_loss).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = peak * min(1.0, step / 50, (steps - step) / (0.7 * steps))
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0 or step == steps:
            seconds = (time.monotonic() - started) / (step - first)
            print(
                f"step {step} latent error {encoder_loss.item():.5f} "
                f"picture error {decoder_loss.item():.5f} {seconds:.2f} s/step",
                flush=True,
            )
        if step % 100 == 0 or step == steps:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            torch.save(state, checkpoint)
    return model
