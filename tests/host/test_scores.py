"""CLIP scores through the transformers library, with a tiny CLIP of random weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
)

from comfy_vq.errors import VQError
from comfy_vq.protocol.scores import Scorer

PROMPTS = ["a red circle", "blue", "a a red"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clip")
    words = ["<|startoftext|>", "<|endoftext|>", *"abcdeilru", *(f"{c}</w>" for c in "abcdeilru")]
    (path / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(path / "vocab.json"), str(path / "merges.txt"))
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(images, tokenizer).save_pretrained(path)
    small = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    torch.manual_seed(0)
    CLIPModel(
        CLIPConfig(
            text_config={**small, **ends, "vocab_size": len(words)},
            vision_config={**small, "image_size": 32, "patch_size": 8},
            projection_dim=16,
        )
    ).save_pretrained(path)
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
