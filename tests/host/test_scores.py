"""CLIP scores through the transformers library, with a tiny CLIP of random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import CLIPModel, CLIPProcessor, CLIPVisionConfig, CLIPVisionModel

from comfy_vq.errors import VQError
from comfy_vq.protocol.scores import Scorer
from host.tiny_clip import write_clip

PROMPTS = ["a red circle", "blue", "a a red"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clip")
    write_clip(path)
    return path


def test_the_score_is_the_mean_cosine_of_pictures_and_prompts(folder):
    pictures = torch.rand(3, 48, 48, 3, generator=torch.Generator().manual_seed(0))
    whole = Scorer(folder, PROMPTS)(pictures)
    each = [Scorer(folder, [text])(pictures[i : i + 1]) for i, text in enumerate(PROMPTS)]
    assert whole == pytest.approx(sum(each) / 3, abs=1e-5) and len(set(each)) == 3
    model = CLIPModel.from_pretrained(folder).eval()
    processor = CLIPProcessor.from_pretrained(folder)
    picture = (pictures[1] * 255).round().to(torch.uint8).numpy()
    inputs = processor(text=[PROMPTS[1]], images=[picture], return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits_per_image / model.logit_scale.exp()
    assert each[1] == pytest.approx(float(logits), abs=1e-5)


def test_the_processor_may_be_anothers(folder, tmp_path):
    CLIPModel.from_pretrained(folder).save_pretrained(tmp_path)
    pictures = torch.rand(3, 32, 32, 3)
    assert Scorer(tmp_path, PROMPTS, folder)(pictures) == Scorer(folder, PROMPTS)(pictures)


def test_other_folders_are_refused(folder, tmp_path):
    with pytest.raises(VQError, match="found no CLIP model of transformers"):
        Scorer(tmp_path, PROMPTS)
    vision = CLIPVisionConfig(hidden_size=24, intermediate_size=24, num_hidden_layers=1)
    CLIPVisionModel(vision).save_pretrained(tmp_path)
    with pytest.raises(VQError, match="found a CLIPVisionModel, expected a CLIP model"):
        Scorer(tmp_path, PROMPTS, folder)
