"""The original in torch float32 behind the runtime's own seams, so that both can be asked the same way.

`open_original` gives a `SkinGPT` whose stages are computed by torch from the checkpoints: everything else,
preprocessing, prompt, sampling and report, is the runtime's. Made for models that fit into memory as float32.
"""

import copy
from collections.abc import Mapping, Sequence
from contextlib import closing

import numpy as np
import torch
from sentencepiece import SentencePieceProcessor
from transformers import DynamicCache, LlamaForCausalLM

from ..engines.base import Array, EngineInfo, Floats, Run, TensorSpec
from ..engines.errors import EngineError
from ..runtime.bundle import Bundle
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
    return SkinGPT(bundle, RuntimeVision(bundle, TorchEncoder(vision, config), TorchQFormer(vision, config)), llama)


def _info() -> EngineInfo:
    return EngineInfo("torch", torch.__version__, "cpu", "f32", torch.get_num_threads())


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
        self._logits = np.zeros(0, np.float32)
        self.n_embd = source.config.width
        self.n_ctx = source.config.context
        self.n_batch = source.config.context
        self.n_vocab = source.config.vocabulary
        self.eos = int(self._tokenizer.eos_id())
        self.info = _info()

    def tokenize(self, text: str, *, bos: bool) -> list[int]:
        return [int(self._tokenizer.bos_id())] * bos + list(self._tokenizer.encode(text))

    def piece(self, token: int) -> bytes:
        if token >= self._tokenizer.get_piece_size():  # a padded vocabulary has numbers without a piece
            return b""
        if self._tokenizer.is_byte(token):
            return bytes([int(self._tokenizer.id_to_piece(token)[3:5], 16)])
        return str(self._tokenizer.id_to_piece(token)).replace("\u2581", " ").encode()

    def evaluate_tokens(self, sequence: int, position: int, tokens: Sequence[int]) -> None:
        embeddings = self._llama.get_input_embeddings()(torch.tensor(list(tokens)))
        self._evaluate(sequence, position, embeddings)

    def evaluate_embeddings(self, sequence: int, position: int, embeddings: Floats) -> None:
        self._evaluate(sequence, position, torch.from_numpy(np.array(embeddings, np.float32)))

    def _evaluate(self, sequence: int, position: int, embeddings: torch.Tensor) -> None:
        cache = self._caches.setdefault(sequence, DynamicCache())
        if cache.get_seq_length() != position:
            raise EngineError(f"sequence {sequence} holds {cache.get_seq_length()} cells, cannot go on at {position}")
        with torch.no_grad():
            out = self._llama(inputs_embeds=embeddings[None], past_key_values=cache, use_cache=True, logits_to_keep=1)
        self._logits = out.logits[0, -1].numpy()

    def evaluate_together(self, runs: Sequence[Run]) -> Floats:
        rows = []
        for run in runs:  # one after the other: torch is here for its values, not its speed
            self.evaluate_tokens(run.sequence, run.position, run.tokens)
            rows.append(self._logits)
        return np.stack(rows)

    def logits(self) -> Floats:
        return self._logits

    def fork(self, source: int, target: int, length: int) -> None:
        self._caches[target] = copy.deepcopy(self._caches[source])
        self.rewind(target, length)

    def rewind(self, sequence: int, length: int) -> None:
        if length == 0:
            self._caches.pop(sequence, None)
        elif sequence in self._caches:
            self._caches[sequence].crop(length)

    def close(self) -> None:
        self._caches.clear()
