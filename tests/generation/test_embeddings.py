"""CLIP's two towers behind one pair of functions: a small one with random weights, in the files of a real one."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel

from raydiance.errors import ConfigError
from raydiance.generation.embeddings import CLIP_COLOURS, CLIP_FILES, embedding_pair

SIZE = 32
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Letters, letters that end a word, three merges that make "red</w>" one token, and CLIP's two marks."""
    folder = tmp_path_factory.mktemp("clip")
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    merges = ["r e", "re d</w>", "h i"]
    made = [merge.replace(" ", "") for merge in merges]
    words = [*letters, *(f"{each}</w>" for each in letters), *made, "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    first, last = len(words) - 2, len(words) - 1
    text = {
        "vocab_size": len(words),
        "max_position_embeddings": 12,
        "bos_token_id": first,
        "eos_token_id": last,
    }
    torch.manual_seed(0)
    model = CLIPModel(
        CLIPConfig(
            text_config=TOWER | text,
            vision_config=TOWER | {"image_size": SIZE, "patch_size": 8},
            projection_dim=16,
        )
    )
    model.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    return folder


def test_images_and_texts_come_into_one_space(folder):
    pair = embedding_pair("clip", str(folder), text=True)
    images = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    assert pair.image(images).shape == (2, 16) and pair.text("a red chair").shape == (16,)
    assert torch.equal(pair.text("Red"), pair.text("red"))
    assert not torch.allclose(pair.text("red"), pair.text("hi"))
    pair.text("a word " * 40)  # is cut to what the tower reads


def test_an_image_is_seen_as_the_tower_was_trained(folder):
    """A picture of its own size only has its colours set to CLIP's mean and deviation."""
    pair, model = embedding_pair("clip", str(folder), text=False), CLIPModel.from_pretrained(folder).eval()
    image = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in CLIP_COLOURS)
    pixels = (image - mean) / std
    with torch.no_grad():
        expected = model.visual_projection(model.vision_model(pixels).pooler_output)
    torch.testing.assert_close(pair.image(image), expected, rtol=1e-5, atol=1e-6)


def test_what_an_image_resembles_can_be_followed_uphill(folder):
    pair = embedding_pair("clip", str(folder), text=True)
    target = pair.text("red")[None]
    image = torch.full((1, 3, 48, 48), 0.5, requires_grad=True)
    alike = F.cosine_similarity(pair.image(image), target)
    (slope,) = torch.autograd.grad(alike.sum(), image)
    step = 0.02 * slope / slope.abs().max()
    assert F.cosine_similarity(pair.image(image + step), target) > alike


@pytest.mark.parametrize("name", CLIP_FILES)
def test_a_missing_file_is_named(folder, tmp_path, name):
    for each in CLIP_FILES:
        if each != name:
            (tmp_path / each).write_bytes((folder / each).read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle is not looked at")
    with pytest.raises(ConfigError, match=name):
        embedding_pair("clip", str(tmp_path), text=True)


def test_other_weights_are_refused(folder, tmp_path):
    for each in CLIP_FILES:
        (tmp_path / each).write_bytes((folder / each).read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    save_file({"other": next(iter(weights.values()))}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match="CLIP"):
        embedding_pair("clip", str(tmp_path), text=True)
    (tmp_path / "model.safetensors").write_bytes(b"truncated")
    with pytest.raises(ConfigError, match="CLIP"):
        embedding_pair("clip", str(tmp_path), text=True)
