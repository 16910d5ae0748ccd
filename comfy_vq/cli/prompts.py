"""What models are asked unless told otherwise: subjects, styles, text, counts and light vary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import VQError

PROMPTS = (
    "a portrait of an old fisherman with a white beard, natural light, photograph",
    "a red vintage car parked on a wet street at night, neon reflections",
    "a bowl of ripe strawberries on a wooden table, soft window light",
    "an aerial view of a river delta with green and brown channels",
    "a cat sleeping on a pile of books in a small library",
    "a watercolour painting of a lighthouse on a cliff in a storm",
    "three blue balloons and one yellow balloon floating over a field",
    "the interior of a gothic cathedral, shafts of coloured light, wide angle",
    "a shop window with a sign that says OPEN in large letters",
    "a macro photograph of a dragonfly on a blade of grass with dew",
    "a snowy mountain village at dusk, lit windows, smoke from chimneys",
    "a chess board seen from above in the middle of a game",
    "two children building a sand castle on a beach, summer afternoon",
    "an astronaut riding a horse through a desert, oil painting",
    "a glass of water with a slice of lemon, studio photograph, white background",
    "a busy market street in the rain, umbrellas of many colours, cinematic",
)


def texts_of(path: Path | None) -> Sequence[str]:
    """The prompts in a file, one a line; without a file, ``PROMPTS``.

    Raises:
        VQError: the file cannot be read, or holds none.
    """
    if path is None:
        return PROMPTS
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise VQError(
            f"{path}: cannot be read as text ({error}); name a file of prompts"
        ) from error
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise VQError(f"{path}: found no prompt, expected one a line")
    return texts
