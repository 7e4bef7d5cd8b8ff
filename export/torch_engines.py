"""Runs the original's model in PyTorch float32 as engines of the runtime, to compare answers.

`open_original` gives a `SkinGPT` in which only the arithmetic is PyTorch's. Preprocessing, prompt, sampling and
report stay the runtime's. The model must fit into memory as float32.
"""

import copy
import io
from collections.abc import Mapping, Sequence
from contextlib import closing

import numpy as np
import torch
from sentencepiece import SentencePieceProcessor
from transformers import DynamicCache, LlamaForCausalLM

from ..engines.base import Array, EngineInfo, Floats, GraphSetup, LanguageModelSetup, Segment, TensorSpec, TokenSegment
from ..engines.errors import EngineError
from ..engines.exclusive import Exclusive
from ..runtime.bundle import Bundle
from ..runtime.loading import Engines
from ..runtime.options import Setup
from ..runtime.skingpt import SkinGPT
from ..runtime.vision import VisionModel as RuntimeVision
from .checkpoints import LlamaFolder
from .llama_reference import hf_config
from .llama_weights import LlamaCheckpoint
from .make import Checkpoints
from .vision_model import IMAGE_SIZE, VisionConfig, VisionModel
from .vision_weights import read_vision


def open_original(checkpoints: Checkpoints, bundle: Bundle) -> SkinGPT:
    """The checkpoints in torch float32, with the bundle's template and preprocessing.

    Raises ExportError, BundleError if checkpoints and bundle are of different sizes.
    """
    config, tensors = read_vision(checkpoints.vit, checkpoints.qformer, checkpoints.adapter)
    vision = VisionModel(config).float()
    vision.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    vision.eval().requires_grad_(False)
    with closing(LlamaFolder(checkpoints.llm)) as files:
        llama = TorchLlama(LlamaCheckpoint(files))
    seeing = RuntimeVision(bundle, TorchEncoder(vision, config), TorchQFormer(vision, config))
    return SkinGPT(bundle, Engines(seeing, llama), _setup(llama))


def _setup(llama: "TorchLlama") -> Setup:
    """How torch runs it."""
    threads = torch.get_num_threads()
    return Setup(
        vision=GraphSetup("torch", "cpu", threads),
        language_model=LanguageModelSetup(
            engine="torch",
            device="cpu",
            gpu_layers=0,
            threads=threads,
            prefill_threads=threads,
            context=llama.n_ctx,
            cells=llama.n_ctx,
            sequences=2,
            batch=llama.n_batch,
            kv_type="f32",
            flash_attention=False,
            layout="plain",
        ),
        huge_pages=False,
        prompt_snapshot=False,
        image_cache=0,
    )


def _info() -> EngineInfo:
    return EngineInfo("torch", torch.__version__, "cpu", torch.get_num_threads(), {"precision": "float32"})


class TorchEncoder:
    """ViT and ln_vision: pixels (b, 3, 224, 224) → image_features."""

    def __init__(self, vision: VisionModel, config: VisionConfig) -> None:
        self._vision = vision
        self.info = _info()
        self.inputs = (TensorSpec("pixels", (None, 3, IMAGE_SIZE, IMAGE_SIZE)),)
        self.outputs = (TensorSpec("image_features", (None, config.patches + 1, config.width)),)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        with torch.no_grad():
            return {"image_features": self._vision.encode(torch.from_numpy(inputs["pixels"])).numpy()}

    def close(self) -> None:
        pass


class TorchQFormer:
    """Q-Former and projection: image_features → query_output and image_embeds."""

    def __init__(self, vision: VisionModel, config: VisionConfig) -> None:
        self._vision = vision
        self.info = _info()
        self.inputs = (TensorSpec("image_features", (None, config.patches + 1, config.width)),)
        self.outputs = (
            TensorSpec("query_output", (None, config.queries, config.qformer_width)),
            TensorSpec("image_embeds", (None, config.queries, config.n_embd)),
        )

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        with torch.no_grad():
            query_output, embeds = self._vision.query(torch.from_numpy(inputs["image_features"]))
        return {"query_output": query_output.numpy(), "image_embeds": embeds.numpy()}

    def close(self) -> None:
        pass


class TorchLlama:
    """A whole Llama in float32, transformers' own, as a `LanguageModel`."""

    def __init__(self, source: LlamaCheckpoint) -> None:
        config = hf_config(source)
        with torch.device("meta"):
            self._llama = LlamaForCausalLM(config)
        state = {name: source.tensor(name).float() for name in source.config.shapes()}
        self._llama.load_state_dict(state, assign=True)
        # The rotary frequencies are computed, not stored, and would be left on the meta device.
        self._llama.model.rotary_emb = type(self._llama.model.rotary_emb)(config)
        self._llama.eval().requires_grad_(False)
        self._tokenizer = SentencePieceProcessor(model_file=str(source.folder / "tokenizer.model"))
        self._caches: dict[int, DynamicCache] = {}
        self.exclusive = Exclusive(self._caches.clear)
        self.n_embd = source.config.width
        self.n_ctx = source.config.context
        self.n_batch = source.config.context
        self.n_vocab = source.config.vocabulary
        self.identity = f"torch {torch.__version__}, float32"
        self.info = _info()

    def tokenize(self, text: str, *, bos: bool) -> list[int]:
        return [int(self._tokenizer.bos_id())] * bos + list(self._tokenizer.encode(text))

    def token_bytes(self, token: int) -> bytes:
        if token >= self._tokenizer.get_piece_size():  # a padded vocabulary has numbers without a piece
            return b""
        if self._tokenizer.is_byte(token):
            return bytes([int(self._tokenizer.id_to_piece(token)[3:5], 16)])
        return str(self._tokenizer.id_to_piece(token)).replace("\u2581", " ").encode()

    def embed(self, tokens: Sequence[int]) -> Floats:
        rows: Floats = self._llama.get_input_embeddings()(torch.tensor(tokens, dtype=torch.long)).numpy()
        return rows

    def evaluate(self, segments: Sequence[Segment]) -> Floats:
        # One after the other: torch is here for its values, not its speed.
        return np.stack([self._evaluate(segment) for segment in segments])

    def _evaluate(self, segment: Segment) -> Floats:
        cache = self._caches.setdefault(segment.sequence, DynamicCache())
        if (held := cache.get_seq_length()) != segment.position:
            raise EngineError(f"sequence {segment.sequence} holds {held} cells, cannot go on at {segment.position}")
        rows = self.embed(segment.tokens) if isinstance(segment, TokenSegment) else segment.embeddings
        embeddings = torch.from_numpy(np.array(rows, np.float32))
        with torch.no_grad():
            out = self._llama(inputs_embeds=embeddings[None], past_key_values=cache, use_cache=True, logits_to_keep=1)
        logits: Floats = out.logits[0, -1].numpy()
        return logits

    def fork(self, source: int, target: int, length: int) -> None:
        if length:
            self._caches[target] = copy.deepcopy(self._caches[source])
        self.rewind(target, length)

    def rewind(self, sequence: int, length: int) -> None:
        if length == 0:
            self._caches.pop(sequence, None)
        elif sequence in self._caches:
            self._caches[sequence].crop(length)

    def snapshot(self, sequence: int) -> bytes:
        buffer = io.BytesIO()
        torch.save([(layer.keys, layer.values) for layer in self._caches[sequence].layers], buffer)
        return buffer.getvalue()

    def restore(self, sequence: int, data: bytes) -> None:
        cache = DynamicCache()
        for number, (keys, values) in enumerate(torch.load(io.BytesIO(data), weights_only=True)):
            cache.update(keys, values, number)
        self._caches[sequence] = cache

    def wipe(self) -> None:
        self._caches.clear()

    def set_threads(self, threads: int, prefill_threads: int) -> None:
        torch.set_num_threads(max(threads, prefill_threads))  # torch has one number for both

    def close(self) -> None:
        self.exclusive.close()
