"""From a dense CLIP to a VQ CLIP, within a running graph."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import comfy.model_management
import comfy.sd
import torch
from torch import Tensor

from ....budget import Fit, plan_within, sampling_bytes
from ....cache import Cache
from ....codecs import AUTO, CODECS, codec_of
from ....evaluation.metrics import sqnr_db
from ....model import Component
from ....plan import Plan, to_table
from ....quantize import plan_for
from ..display import Display
from ..encoding import Job, carry_out, patterns, sizes
from ..model.carry import carry_over
from .encoders import ClipInMemory, load_clip, load_clip_patcher
from .source import ClipSource, EncoderSource
from .types import about

log = logging.getLogger(__name__)

FAMILY = "text-encoders"
PROMPT = "a photograph of a red fox in the snow at dawn, (sharp focus:1.2), soft light"
"""What conditionings are compared on."""
_ENCODING = "encoding a prompt"


def quantize_clip(
    clip: comfy.sd.CLIP,
    bits: float | Fit,
    effort: str,
    exclude: str,
    node_id: str | None = None,
    cache: Cache | None = None,
    codec: str = AUTO,
) -> tuple[comfy.sd.CLIP, str]:
    """A VQ CLIP that otherwise behaves as ``clip``, which is not changed, and a report.

    Args:
        bits: average number of bits per weight of all but the token tables, which stay as they are;
            or the graphics memory that encoding a prompt should stay within.
        effort, exclude, node_id, cache, codec: as of ``quantize_model``.

    Raises:
        VQError: see ``ClipSource``, ``quantize`` and ``budget.fit``.
        comfy.model_management.InterruptProcessingException: the user cancelled.
    """
    source, excluded, codec = ClipSource(clip), patterns(exclude), codec_of(codec, effort)
    facts = about(clip)
    plan = plan_within(
        bits,
        lambda wanted: plan_of(source, wanted, excluded, codec, effort),
        lambda plan: encoding_bytes(source, plan),
    )
    memory = encoding_bytes(source, plan)
    job = Job(source, plan, effort, excluded, cache, "VQ Quantize CLIP", memory, _ENCODING)
    display = Display(node_id)
    done = carry_out(job, display)
    patcher = clip.patcher
    devices = {"load_device": patcher.load_device, "offload_device": patcher.offload_device}
    model_class = type(clip.cond_stage_model)
    origin = ClipInMemory(Component(done.vq, facts), model_class, clip.tokenizer, devices)
    quantized = _carry_over(clip, origin)
    display.say("comparing the conditioning with that of the dense text encoders")
    lines = (
        sizes(done.vq, plan, done.how, source.table_bytes),
        done.expected,
        _quality(clip, quantized),
        done.advice,
        _tables(source),
    )
    return quantized, "\n".join(filter(None, lines)) + f"\n\n{to_table(plan)}"


def plan_of(
    source: EncoderSource,
    bits: float,
    exclude: Sequence[str] = (),
    codec: str = CODECS[0],
    effort: str = "balanced",
) -> Plan:
    """The plan of all but the token and position tables.

    They are up to a third of a text encoder and stay in 16 bits: counted with the others, no average
    of 3 bits could be met.
    """
    how = {"family": FAMILY, "exclude": exclude, "codec": codec, "effort": effort}
    return plan_for(source, bits, uncounted=source.tables, **how)


def encoding_bytes(source: EncoderSource, plan: Plan) -> int:
    """Graphics memory that the weights take while a prompt is encoded, in float32 as the host does."""
    return sampling_bytes(plan, 0, torch.float32.itemsize) + source.table_bytes


def conditioning(clip: comfy.sd.CLIP, prompt: str) -> dict[str, Tensor]:
    """What a prompt is encoded to: ``cond`` ``[1, tokens, width]``, and ``pooled`` where there is one."""
    cond, pooled = clip.encode_from_tokens(clip.tokenize(prompt), return_pooled=True)[:2]
    found = {"cond": cond, "pooled": pooled}
    return {name: tensor for name, tensor in found.items() if torch.is_tensor(tensor)}


def _carry_over(clip: comfy.sd.CLIP, origin: ClipInMemory) -> comfy.sd.CLIP:
    """A clone of ``clip`` around the quantized model: its options, hooks and tokenizer stay."""
    loaded = load_clip(origin)
    quantized = clip.clone()
    quantized.cond_stage_model = loaded.cond_stage_model
    quantized.patcher = carry_over(clip.patcher, loaded.patcher, origin, load_clip_patcher)
    return quantized


def _quality(dense: comfy.sd.CLIP, quantized: comfy.sd.CLIP) -> str:
    """A line on how far conditionings are apart; empty where that could not be found out."""
    try:
        reference, found = conditioning(dense, PROMPT), conditioning(quantized, PROMPT)
    except comfy.model_management.OOM_EXCEPTION:
        log.warning("VQ: no memory to compare with the dense text encoders")
        return ""
    shown = [f"{name} {sqnr_db(reference[name], found[name]):.1f} dB" for name in reference]
    return f"conditioning of one prompt against the dense text encoders: {', '.join(shown)} SQNR"


def _tables(source: ClipSource) -> str:
    share = f"{source.table_numel / 1e6:.1f} M weights, {source.table_bytes / 1e6:.1f} MB"
    return f"token and position tables stay as they are and are not in the plan: {share}"
