"""Checkpoints of the original's layout and other sizes, against another implementation of the same models.

transformers has its own BLIP-2 vision transformer, Q-Former, Llama and tokenizer; nothing of ours is in the
reference but the upload of the weights. Grouped-query attention, tied embeddings, a padded vocabulary, weights in
bfloat16 and float16, questions with odd letters, and an answer that the model ends by itself are all in here.
"""

import json
import re
import shutil
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from support import CHECKPOINT, GOLDEN, export, run
from torch import nn
from transformers import (
    Blip2QFormerConfig,
    Blip2QFormerModel,
    Blip2VisionConfig,
    Blip2VisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaTokenizer,
)

QUESTIONS = ("Could you describe it?", "Is it red?  or  blue\nor 42%?", "What é treatment — 皮肤?")
BEFORE = (
    "Give the following image: <Img>ImageContent</Img>. You will be able to see the image once I provide it to you. "
    "Please answer my questions.###Human: <Img>"
)
TOKENS = 40
EAGER = 2  # exact in bfloat16
PHOTO = GOLDEN / "images/02.png"


@dataclass(frozen=True)
class Sizes:
    width: int
    depth: int
    mlp: int
    qformer: int
    layers: int
    qformer_mlp: int
    n_embd: int
    heads: int
    kv_heads: int
    hidden: int
    padding: int
    tied: bool
    dtype: torch.dtype
    eps: float


CASES = {
    "grouped, padded, bfloat16": Sizes(264, 2, 500, 192, 6, 300, 320, 5, 1, 417, 5, False, torch.bfloat16, 1e-6),
    "tied, float16": Sizes(88, 5, 333, 64, 2, 96, 192, 6, 6, 512, 0, True, torch.float16, 1e-5),
}


class Reference:
    """Random models of transformers' own, and what the original's conversation makes of them."""

    def __init__(self, sizes: Sizes) -> None:
        torch.manual_seed(0)
        self.sizes = sizes
        vision = Blip2VisionConfig(
            hidden_size=sizes.width, intermediate_size=sizes.mlp, num_hidden_layers=sizes.depth,
            num_attention_heads=sizes.width // 88, image_size=224, patch_size=14, layer_norm_eps=1e-6,
        )  # fmt: skip
        qformer = Blip2QFormerConfig(
            hidden_size=sizes.qformer, num_hidden_layers=sizes.layers, num_attention_heads=sizes.qformer // 64,
            intermediate_size=sizes.qformer_mlp, cross_attention_frequency=2, encoder_hidden_size=sizes.width,
        )  # fmt: skip
        llama = LlamaConfig(
            vocab_size=768 + sizes.padding, hidden_size=sizes.n_embd, intermediate_size=sizes.hidden,
            num_hidden_layers=3, num_attention_heads=sizes.heads, num_key_value_heads=sizes.kv_heads,
            rms_norm_eps=sizes.eps, tie_word_embeddings=sizes.tied, attn_implementation="eager",
        )  # fmt: skip
        self.vit, self.qformer = Blip2VisionModel(vision).eval(), Blip2QFormerModel(qformer).eval()
        self.llama = LlamaForCausalLM(llama).eval()
        self.vit.post_layernorm.eps = 1e-5
        self.query, self.projection = torch.randn(1, 32, sizes.qformer), nn.Linear(sizes.qformer, sizes.n_embd)
        for model, dtype in ((self.vit, torch.float32), (self.qformer, torch.float32), (self.llama, sizes.dtype)):
            for name, weight in model.named_parameters():
                scale = 1.0 if "embed_tokens" in name else 0.09
                center = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
                weight.data = (torch.randn_like(weight) * scale + center).to(dtype).float()
        if not sizes.tied:  # so that special tokens come up, and an answer or two ends before its limit
            self.llama.lm_head.weight.data[:3] *= EAGER
        for layer in self.vit.encoder.layers:  # the original's keys have no bias
            layer.self_attn.qkv.bias.data[sizes.width : 2 * sizes.width] = 0

    def save(self, folder) -> None:
        """Write the models as the original's four checkpoints."""
        (folder / "llm").mkdir(parents=True)
        torch.save(self._vit(), folder / "eva_vit_g.pth")
        norm = self.vit.post_layernorm
        state = {"query_tokens": self.query, "ln_vision.weight": norm.weight, "ln_vision.bias": norm.bias}
        for name, tensor in self.qformer.state_dict().items():
            theirs = name if name.startswith("encoder") else name.replace("layernorm.", "embeddings.LayerNorm.")
            state["Qformer.bert." + theirs.replace("attention.attention.", "attention.self.")] = tensor
        torch.save({"model": state}, folder / "blip2_pretrained.pth")
        adapter = {f"llama_proj.{name}": tensor for name, tensor in self.projection.state_dict().items()}
        torch.save({"model": adapter}, folder / "skingpt4.pth")
        self.llama.config.save_pretrained(folder / "llm")
        weights = {name: tensor.to(self.sizes.dtype) for name, tensor in self.llama.state_dict().items()}
        if self.sizes.tied:
            del weights["lm_head.weight"]
        torch.save(weights, folder / "llm/pytorch_model.bin")
        shutil.copy(CHECKPOINT / "llm/tokenizer.model", folder / "llm")
        if self.sizes.padding:
            (folder / "llm/added_tokens.json").write_text(json.dumps({"[PAD]": 768}))

    def _vit(self):
        names = {"attn.proj": "self_attn.projection", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
                 "norm1": "layer_norm1", "norm2": "layer_norm2"}  # fmt: skip
        embeddings, width = self.vit.embeddings, self.sizes.width
        state = {
            "cls_token": embeddings.class_embedding,
            "pos_embed": embeddings.position_embedding,
            "patch_embed.proj.weight": embeddings.patch_embedding.weight,
            "patch_embed.proj.bias": embeddings.patch_embedding.bias,
        }
        for i, layer in enumerate([*self.vit.encoder.layers, self.vit.encoder.layers[0]]):  # one block too many
            bias = layer.self_attn.qkv.bias
            state |= {
                f"blocks.{i}.attn.q_bias": bias[:width].clone(),
                f"blocks.{i}.attn.v_bias": bias[2 * width :].clone(),
                f"blocks.{i}.attn.qkv.weight": layer.self_attn.qkv.weight,
            }
            for ours, theirs in names.items():
                for kind in ("weight", "bias"):
                    state[f"blocks.{i}.{ours}.{kind}"] = layer.get_parameter(f"{theirs}.{kind}")
        return state

    @torch.no_grad()
    def converse(self, pixels):
        """Stages, and a turn for each question, as the original's code goes about it."""
        features = self.vit(pixels).last_hidden_state
        queries = self.qformer(query_embeds=self.query, encoder_hidden_states=features).last_hidden_state
        embeds = self.projection(queries)
        stages = {"image_features": features, "query_output": queries, "image_embeds": embeds}
        tokenizer = LlamaTokenizer(vocab_file=str(CHECKPOINT / "llm/tokenizer.model"), legacy=True)
        after, turns = "</Img> ", []
        for question in QUESTIONS:
            after += (
                f"{question}###Assistant:" if not turns else f" {turns[-1]['text']}###Human: {question}###Assistant:"
            )
            segments = [tokenizer(BEFORE).input_ids, tokenizer(after, add_special_tokens=False).input_ids]
            first, tokens = self._greedy(segments, embeds)
            stages.setdefault("first_logits", first)
            kept = tokens[1:] if tokens[0] == 0 else tokens  # the original drops a first <unk>, then a first <s>
            kept = kept[1:] if kept[:1] == [1] else kept
            words = tokenizer.decode([token for token in kept if token < 768])
            words = words.split("###")[0].split("Assistant:")[-1].strip()
            turns.append({"segment_token_ids": segments, "token_ids": tokens, "text": words})
        return stages, turns

    def _greedy(self, segments, image):
        embed = self.llama.get_input_embeddings()
        before, after = (embed(torch.tensor([ids])) for ids in segments)
        out = self.llama(inputs_embeds=torch.cat((before, image, after), dim=1), use_cache=True)
        first, tokens = out.logits[0, -1], []
        while len(tokens) < TOKENS and 2 not in tokens:
            tokens.append(int(out.logits[0, -1].argmax()))
            step = embed(torch.tensor([tokens[-1:]]))
            out = self.llama(inputs_embeds=step, past_key_values=out.past_key_values, use_cache=True)
        return first, tokens


@pytest.fixture(scope="module", params=CASES)
def both(request, tmp_path_factory):
    """The reference's stages and turns, and what export and trace make of its checkpoints."""
    folder = tmp_path_factory.mktemp("sizes")
    reference = Reference(CASES[request.param])
    reference.save(folder / "checkpoint")
    result = export(folder / "bundle", "f32", "f32", checkpoint=folder / "checkpoint")
    assert result.returncode == 0, result.stderr
    questions = [item for question in QUESTIONS for item in ("-q", question)]
    result = run("skingpt", "trace", PHOTO, *questions, "--bundle", folder / "bundle", "-o", folder,
                 "--ignore-stop", "--max-new-tokens", str(TOKENS))  # fmt: skip
    assert result.returncode == 0, result.stderr
    found = np.load(folder / "trace.npz")
    expected = reference.converse(torch.from_numpy(found["pixels"]))
    return expected, found, json.loads((folder / "trace.json").read_text())["turns"]


def test_every_stage_is_the_references(both):
    (stages, _), found, _ = both
    for stage, values in stages.items():
        assert np.abs(found[stage] - values.numpy()).max() < 1e-3 * max(1, float(values.abs().max())), stage


def test_every_token_and_word_is_the_references(both):
    (_, turns), _, found = both
    assert [{name: turn[name] for name in turns[0]} for turn in found] == turns


def test_special_tokens_are_among_the_answers(both, request):
    (_, turns), _, _ = both
    padded = "padded" in request.node.callspec.params["both"]
    assert any(turn["text"].endswith("</s>") for turn in turns[:-1]) == padded
    assert any(re.search("<s>|<unk>", turn["text"]) for turn in turns[:-1]) == padded
