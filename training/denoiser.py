"""The denoiser: its layout, its training loop and its sampler."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.embeddings import TimestepEmbedding, Timesteps

from comfy_vq.demo.conditioning import embed
from comfy_vq.demo.scenes import training
from comfy_vq.demo.with_diffusers import noise_schedule
from training.widen import widen

WIDTH = 320
_CAPTION_DROPOUT = 0.1
_EMA_DECAY = 0.998
# The loss of the noise is weighed by 1 + sigma^2 up to this: what a scene holds is settled where
# the noise is strong, and the plain error all but vanishes there. Below the other limit, of
# sigma^2, nothing but fine grain is left, and the weight falls.
_LARGEST_WEIGHT = 5.0
_FAINT = 0.1


def build(width: int = WIDTH) -> UNet2DConditionModel:
    """SD1.5's UNet with one level, one block, and a middle without attention.

    Args:
        width: channels, a multiple of 32. The time step enters as `WIDTH` sinusoids whatever
            the width, so that `widen` can turn a narrow network into a wide one.
    """
    model = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(width,),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",),
        mid_block_type="UNetMidBlock2D",
        up_block_types=("CrossAttnUpBlock2D",),
        cross_attention_dim=768,
        # In diffusers this is the number of heads when no other number is given.
        attention_head_dim=8,
    )
    if width != WIDTH:
        model.time_proj = Timesteps(WIDTH, flip_sin_to_cos=True, downscale_freq_shift=0)
        model.time_embedding = TimestepEmbedding(WIDTH, 4 * width)
    return model


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warmup, then the peak, then linear decay to zero over the last 30 % of steps."""
    warmup = min(100, steps // 10)
    return peak * min(1.0, (step + 1) / warmup, (steps - step) / (0.3 * steps))


class Trainer:
    """Weights, their running average and the optimiser, saved together to resume from.

    Args:
        device: where to train.
        checkpoint: the file to save to; read first if it exists.
        width: the network's channels.
    """

    def __init__(self, device: torch.device, checkpoint: Path, width: int = WIDTH) -> None:
        torch.manual_seed(0)
        self.device = device
        self.checkpoint = checkpoint
        self.model = build(width).to(device)
        self.average = build(width).to(device).requires_grad_(False)
        self.average.load_state_dict(self.model.state_dict())
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )
        self.step = 0
        if checkpoint.exists():
            saved = torch.load(checkpoint, map_location=device, weights_only=True)
            self.model.load_state_dict(saved["model"])
            self.average.load_state_dict(saved["average"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.step = saved["step"]

    def start_from(self, narrow: Trainer) -> None:
        """Begin anew from what a narrower network has learned.

        Raises:
            ValueError: it has learned nothing yet.
        """
        if narrow.step == 0:
            raise ValueError(f"{narrow.checkpoint} holds no trained network to widen")
        widen(narrow.average, self.model)
        self.average.load_state_dict(self.model.state_dict())
        self.step = 0
        self.save()

    def save(self) -> None:
        """Write the checkpoint, never leaving a half-written one."""
        part = self.checkpoint.with_suffix(".part")
        torch.save(
            {
                "model": self.model.state_dict(),
                "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "step": self.step,
            },
            part,
        )
        part.replace(self.checkpoint)

    def _update_average(self) -> None:
        decay = min(_EMA_DECAY, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.average.parameters()), list(self.model.parameters()), 1 - decay
            )

    def train(
        self,
        latents: torch.Tensor,
        which: torch.Tensor,
        steps: int,
        batch: int,
        peak: float,
        save_every: int = 100,
    ) -> None:
        """Train until `steps` steps have been taken in all.

        Args:
            latents: float32 [n, 4, 8, 8], standardised.
            which: int64 [n], each latent's scene as an index into `scenes.training()`.
            steps: the length of the run, counting steps taken before a resume.
            batch: latents per step.
            peak: the highest learning rate.
            save_every: steps between checkpoints.
        """
        captions = [scene.caption for scene in training()] + [""]
        contexts = embed(captions).to(self.device)
        latents, which = latents.to(self.device), which.to(self.device)
        alphas = noise_schedule().alphas_cumprod.to(self.device)
        variances = 1 / alphas - 1
        weights = (1 + variances).clamp(max=_LARGEST_WEIGHT) * (variances / _FAINT).clamp(max=1)
        chance = torch.Generator().manual_seed(self.step + 1)
        total, count, started = 0.0, 0, time.monotonic()
        while self.step < steps:
            chosen = torch.randint(len(latents), (batch,), generator=chance).to(self.device)
            caption = which[chosen]
            dropped = torch.rand(batch, generator=chance).to(self.device) < _CAPTION_DROPOUT
            caption = torch.where(dropped, len(captions) - 1, caption)
            noise = torch.randn(batch, *latents.shape[1:], generator=chance).to(self.device)
            # Strong noise more often than weak: there the caption decides, not the noisy latent.
            level = torch.rand(batch, generator=chance) ** 0.6
            time_step = (level * len(alphas)).long().clamp(max=len(alphas) - 1).to(self.device)
            alpha = alphas[time_step].view(-1, 1, 1, 1)
            noisy = alpha.sqrt() * latents[chosen] + (1 - alpha).sqrt() * noise
            predicted = self.model(noisy, time_step, contexts[caption]).sample
            errors = (predicted - noise).square().mean((1, 2, 3))
            loss = (weights[time_step] * errors).mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self.step, steps, peak)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.step += 1
            self._update_average()
            total, count = total + loss.item(), count + 1
            if self.step % 50 == 0 or self.step == steps:
                seconds = (time.monotonic() - started) / count
                print(f"step {self.step} loss {total / count:.4f} {seconds:.2f} s/step", flush=True)
                total, count, started = 0.0, 0, time.monotonic()
            if self.step % save_every == 0 or self.step == steps:
                self.save()


@torch.no_grad()
def sample(
    model: UNet2DConditionModel,
    captions: Sequence[str],
    seed: int,
    steps: int = 20,
    guidance: float = 3.0,
) -> torch.Tensor:
    """Sample latents with deterministic DDIM and classifier-free guidance.

    Args:
        model: predicts noise.
        captions: one per latent.
        seed: of the initial noise, drawn on the CPU.
        steps: sampler steps, two evaluations each.
        guidance: how far past the unconditional prediction to go; 1 is none.

    Returns:
        float32 [len(captions), 4, 8, 8], standardised latents.
    """
    device = model.device
    scheduler = noise_schedule()
    scheduler.set_timesteps(steps)
    count = len(captions)
    context = torch.cat((embed([""]).expand(count, -1, -1), embed(captions))).to(device)
    chance = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 4, 8, 8, generator=chance).to(device)
    for time_step in scheduler.timesteps:
        without, with_caption = model(torch.cat((x, x)), time_step, context).sample.chunk(2)
        noise = without + guidance * (with_caption - without)
        x = scheduler.step(noise, time_step, x).prev_sample
    return x
