"""The original's vision chain in torch: EVA ViT-g, ln_vision, Q-Former, projection.

Written from the published architecture (EVA: Fang et al. 2022; BLIP-2: Li et al. 2023; MiniGPT-4: Zhu et al.
2023). The modules' names are the checkpoints' names, so that a merged checkpoint loads without renaming. Only
what the image path uses is here: the Q-Former's text half and the ViT's head are not.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IMAGE_SIZE = 224
VIT_HEAD_WIDTH = 88
QFORMER_HEAD_WIDTH = 64
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of the vision chain, all read from the checkpoints."""

    width: int
    depth: int
    mlp: int
    patch: int
    queries: int
    qformer_width: int
    qformer_layers: int
    qformer_mlp: int
    cross_layers: tuple[int, ...]
    """Q-Former layers with cross-attention to the image features."""
    n_embd: int

    @property
    def patches(self) -> int:
        return (IMAGE_SIZE // self.patch) ** 2


class VisionModel(nn.Module):
    """Pixels (b, 3, 224, 224) → image_embeds (b, queries, n_embd)."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.visual_encoder = VisionTransformer(config)
        self.ln_vision = nn.LayerNorm(config.width, eps=1e-5)
        self.query_tokens = nn.Parameter(torch.empty(1, config.queries, config.qformer_width))
        self.Qformer = nn.ModuleDict({"bert": QFormer(config)})
        self.llama_proj = nn.Linear(config.qformer_width, config.n_embd)

    def encode(self, pixels: Tensor) -> Tensor:
        """Image features (b, patches + 1, width)."""
        features: Tensor = self.ln_vision(self.visual_encoder(pixels))
        return features

    def query(self, image_features: Tensor) -> tuple[Tensor, Tensor]:
        """Query output (b, queries, qformer_width) and image embeddings (b, queries, n_embd)."""
        queries = self.query_tokens.expand(image_features.shape[0], -1, -1)
        query_output: Tensor = self.Qformer["bert"](queries, image_features)
        return query_output, self.llama_proj(query_output)


class VisionTransformer(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.empty(1, config.patches + 1, config.width))
        self.patch_embed = PatchEmbedding(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))

    def forward(self, pixels: Tensor) -> Tensor:
        x: Tensor = self.patch_embed(pixels)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return x


class PatchEmbedding(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.width, config.patch, stride=config.patch)

    def forward(self, pixels: Tensor) -> Tensor:
        patches: Tensor = self.proj(pixels)
        flat: Tensor = patches.flatten(2).transpose(1, 2)
        return flat


class Block(nn.Module):
    """Pre-norm: attention, then an MLP, each added to its input."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=1e-6)
        self.attn = Attention(config.width)
        self.norm2 = nn.LayerNorm(config.width, eps=1e-6)
        self.mlp = Mlp(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Attention(nn.Module):
    """Self-attention whose keys have no bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // VIT_HEAD_WIDTH
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.empty(width))
        self.v_bias = nn.Parameter(torch.empty(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        bias = torch.cat((self.q_bias, torch.zeros_like(self.v_bias), self.v_bias))
        q, k, v = F.linear(x, self.qkv.weight, bias).chunk(3, dim=-1)
        out: Tensor = self.proj(attention(q, k, v, self.heads))
        return out


class Mlp(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.mlp)
        self.fc2 = nn.Linear(config.mlp, config.width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class QFormer(nn.Module):
    """BERT layers over the learned queries, looking at the image in every other layer."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width = config.qformer_width
        self.embeddings = nn.ModuleDict({"LayerNorm": nn.LayerNorm(width, eps=1e-12)})
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(
            QFormerLayer(config, cross=i in config.cross_layers) for i in range(config.qformer_layers)
        )

    def forward(self, queries: Tensor, image_features: Tensor) -> Tensor:
        x: Tensor = self.embeddings["LayerNorm"](queries)
        for layer in self.encoder.get_submodule("layer").children():
            x = layer(x, image_features)
        return x


class QFormerLayer(nn.Module):
    def __init__(self, config: VisionConfig, *, cross: bool) -> None:
        super().__init__()
        width = config.qformer_width
        self.attention = BertAttention(width, width)
        if cross:
            self.crossattention = BertAttention(width, config.width)
        self.intermediate_query = nn.ModuleDict({"dense": nn.Linear(width, config.qformer_mlp)})
        self.output_query = BertOutput(config.qformer_mlp, width)
        self.cross = cross

    def forward(self, x: Tensor, image_features: Tensor) -> Tensor:
        x = self.attention(x, x)
        if self.cross:
            x = self.crossattention(x, image_features)
        hidden = F.gelu(self.intermediate_query["dense"](x))
        out: Tensor = self.output_query(hidden, x)
        return out


class BertAttention(nn.Module):
    def __init__(self, width: int, source_width: int) -> None:
        super().__init__()
        self.self = BertSelfAttention(width, source_width)
        self.output = BertOutput(width, width)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        out: Tensor = self.output(self.self(x, source), x)
        return out


class BertSelfAttention(nn.Module):
    """Attention of x (b, n, width) to source (b, m, source_width)."""

    def __init__(self, width: int, source_width: int) -> None:
        super().__init__()
        self.heads = width // QFORMER_HEAD_WIDTH
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(source_width, width)
        self.value = nn.Linear(source_width, width)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        return attention(self.query(x), self.key(source), self.value(source), self.heads)


class BertOutput(nn.Module):
    """Post-norm: a linear layer, added to the residual, normalised."""

    def __init__(self, source_width: int, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(source_width, width)
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        out: Tensor = self.LayerNorm(self.dense(x) + residual)
        return out


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Softmax attention of q (b, n, width) to k and v (b, m, width), in heads of equal width; (b, n, width)."""
    if torch.onnx.is_in_onnx_export():
        # One operator of ONNX Runtime's: it neither transposes nor stores the n × m weights.
        fused: Tensor = torch.onnx.ops.symbolic(
            "com.microsoft::MultiHeadAttention",
            (q, k, v),
            {"num_heads": heads},
            dtype=q.dtype,
            shape=q.shape,
            version=1,
        )
        return fused
    q, k, v = (x.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in (q, k, v))
    weights = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    out: Tensor = (weights.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)
    return out
