"""The baseline: the same model in plain PyTorch. Runs in a worker.

The vision model is made of export's own modules, and the language model is transformers' Llama. They have the bundle's
sizes and random weights, because time does not depend on the values. As in the original, every turn evaluates its
whole prompt. On a GPU each time is taken when the GPU has finished.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, StaticCache

from ...engines.errors import EngineUnavailable
from ...export.vision_model import VisionConfig, VisionModel
from ...runtime.bundle import Bundle
from ...runtime.image import decode_image, preprocess
from ...runtime.verification import open_bundle
from .fixed_inputs import photo
from .model_sizes import LlamaSizes, VisionSizes, llama_sizes, vision_sizes
from .system import PeakSampler

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
COMPILED = "compiled"
BLOCK = 1 << 20  # random values, which all weights repeat

Turn = Mapping[str, Sequence[int]]
"""Token ids `before` and `after` the picture, and of the `answer`."""


class TorchBaseline:
    """The whole model or its vision half."""

    def __init__(self, bundle: str, threads: int, engine: str, whole: bool, device: str = "cpu") -> None:
        """`engine` is `torch` and one of DTYPES, such as `torch float16`; with `compiled`, by `torch.compile`.

        Raises EngineUnavailable if torch has no such device, or cannot compile the model.
        """
        torch.set_num_threads(threads)
        self._device = _device(device)
        _, dtype, *how = engine.split()
        self._engine, self._dtype, self._compiled = engine, DTYPES[dtype], COMPILED in how
        self._numbers = count()
        self._sampler = PeakSampler()
        self._sampled: list[dict[str, Any]] = []
        with self._sampler, torch.inference_mode():
            self._bundle: Bundle = open_bundle(Path(bundle))
            self._sample("process_start")
            self._vision = open_vision_model(vision_sizes(self._bundle), self._dtype, self._device)
            self._encode: Callable[[Tensor], Any] = self._vision.encode
            self._query: Callable[[Tensor], Any] = self._vision.query
            self._sample("vision_opened")
            if whole:
                self._llama = open_llama(llama_sizes(self._bundle), self._dtype, self._device)
                self._step = self._one_token
                self._sample("language_model_opened")
            if self._compiled:
                self._compile(whole=whole)

    def _compile(self, *, whole: bool) -> None:
        """Compile what every picture and every token runs, and run it. Prompts have many lengths and stay eager."""
        try:
            self._encode, self._query = (
                torch.compile(run, mode="reduce-overhead") for run in (self._encode, self._query)
            )
            if whole:
                config = self._llama.config
                self._static = StaticCache(config=config, max_cache_len=config.max_position_embeddings)
                self._step = torch.compile(self._one_token, mode="reduce-overhead")
            for _ in "123":  # CUDA graphs are recorded at the second run
                embeds, _ = self._embed(photo(next(self._numbers)))
                if whole:
                    self._answer({"before": [1], "after": [1], "answer": [1] * 4}, embeds)
        except Exception as error:  # of torch's compiler, of those it starts, or of another version of transformers
            first = str(error).strip().partition("\n")[0]
            raise EngineUnavailable(f"torch.compile failed: {type(error).__name__}: {first[:200]}") from error

    def encode(self) -> dict[str, float]:
        """Seconds of vision encoder and Q-Former for a new picture."""
        return self._embed(photo(next(self._numbers)))[1]

    @torch.inference_mode()
    def first_token(self, turn: Turn) -> float:
        """Seconds from a picture's bytes to the first token."""
        data = photo(next(self._numbers))
        begun = time.perf_counter()
        embeds, _ = self._embed(data)
        self._prefill(turn, embeds)
        return time.perf_counter() - begun

    @torch.inference_mode()
    def prefill(self, turn: Turn) -> float:
        """Seconds of a turn's whole prompt, with the picture encoded before."""
        embeds, _ = self._embed(photo(next(self._numbers)))
        begun = time.perf_counter()
        self._prefill(turn, embeds)
        return time.perf_counter() - begun

    @torch.inference_mode()
    def decode(self, turn: Turn, tokens: int) -> list[float]:
        """Seconds of each of `tokens` steps from one token to the next after a turn's prompt."""
        embeds, _ = self._embed(photo(next(self._numbers)))
        answer = turn["answer"]
        return self._answer({**turn, "answer": [answer[i % len(answer)] for i in range(tokens + 1)]}, embeds)

    @torch.inference_mode()
    def report(self, turns: Sequence[Turn]) -> dict[str, Any]:
        """Seconds of a report of these turns, and the number of tokens of each answer."""
        data = photo(next(self._numbers))
        begun = time.perf_counter()
        embeds, _ = self._embed(data)
        tokens = [1 + len(self._answer(turn, embeds)) for turn in turns]
        seconds = time.perf_counter() - begun
        if self._sampled[-1]["stage"] != "report":
            self._sample("report")
        return {"seconds": seconds, "answer_tokens": tokens}

    def memory(self) -> list[dict[str, Any]]:
        """Memory after each stage. The peak was sampled while the model was opened, and after each stage."""
        return self._sampled

    @torch.inference_mode()
    def _embed(self, data: bytes) -> tuple[Tensor, dict[str, float]]:
        """Image embeddings (1, queries, n_embd), and the seconds of the two stages."""
        pixels = torch.from_numpy(preprocess(decode_image(data, "photo"), self._bundle.manifest.image))
        begun = self._now()
        features = self._encode(pixels.to(self._device, self._dtype))
        encoded = self._now()
        embeds = self._query(features)[1]
        done = self._now()
        # A CUDA graph writes its next result over this one.
        return embeds.clone(), {"vision_encoder": encoded - begun, "qformer": done - encoded}

    def _now(self) -> float:
        """The time when the device has done all it was asked to."""
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def _tokens(self, tokens: Sequence[int]) -> Tensor:
        return torch.tensor([list(tokens)], device=self._device)

    def _prefill(self, turn: Turn, embeds: Tensor) -> tuple[Any, int]:
        """Evaluate a prompt. Returns the KV cache and the length of what it holds."""
        look_up = self._llama.get_input_embeddings()
        before, after = (look_up(self._tokens(turn[part])) for part in ("before", "after"))
        prompt = torch.cat((before, embeds, after), dim=1)
        kept = {}
        if self._compiled:
            self._static.reset()
            kept["past_key_values"] = self._static
        output = self._llama(inputs_embeds=prompt, use_cache=True, logits_to_keep=1, **kept)
        output.logits[0, -1].argmax().item()
        return output.past_key_values, prompt.shape[1]

    def _one_token(self, token: Tensor, position: Tensor, cache: Any) -> Tensor:
        """Logits after a token (1, 1) at a position (1,)."""
        output = self._llama(input_ids=token, past_key_values=cache, cache_position=position, use_cache=True)
        logits: Tensor = output.logits[0, -1]
        return logits

    def _answer(self, turn: Turn, embeds: Tensor) -> list[float]:
        """Evaluate the prompt and the fixed answer. Returns the seconds of each token after the first."""
        (cache, length), steps = self._prefill(turn, embeds), []
        for position, token in enumerate(turn["answer"][:-1], length):
            begun = time.perf_counter()
            logits = self._step(self._tokens([token]), torch.tensor([position], device=self._device), cache)
            logits.argmax().item()  # it waits for the device
            steps.append(time.perf_counter() - begun)
        return steps

    def _sample(self, stage: str) -> None:
        self._sampled.append({"engine": self._engine, "stage": stage, **self._sampler.snapshot()})


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise EngineUnavailable(
            f"the baseline was asked for on {name!r}, but torch {torch.__version__} finds no GPU: "
            "install a torch that is built for CUDA"
        )
    return torch.device(name)


def open_vision_model(sizes: VisionSizes, dtype: torch.dtype, device: torch.device) -> VisionModel:
    """Export's torch modules with random weights."""
    names = ("width", "depth", "mlp", "patch", "queries", "qformer_width", "qformer_layers", "qformer_mlp")
    values = {name: getattr(sizes, name) for name in (*names, "cross_layers", "n_embd")}
    with torch.device("meta"):
        model = VisionModel(VisionConfig(**values))
    fill(model.to(dtype).to_empty(device=device))
    return model.eval()


def open_llama(sizes: LlamaSizes, dtype: torch.dtype, device: torch.device) -> Any:
    """transformers' Llama with random weights."""
    config = LlamaConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.width,
        intermediate_size=sizes.hidden,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.kv_heads,
        max_position_embeddings=sizes.context,
        rms_norm_eps=sizes.norm_eps,
        rope_theta=sizes.rope_theta,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model = model.to(dtype).to_empty(device=device)
    # The rotary frequencies are computed, not stored.
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(device)
    fill(model)
    return model.eval()


def fill(model: nn.Module) -> None:
    """Set random weights in place, one block of them repeated; the scales of norms are 1."""
    block = torch.randn(BLOCK, generator=torch.Generator().manual_seed(0)).mul_(0.02)
    block = block.to(next(model.parameters()).device)
    for name, parameter in model.named_parameters():
        if "norm" in name.lower() and name.endswith("weight"):
            parameter.data.fill_(1)
            continue
        flat = parameter.data.view(-1)
        for start in range(0, len(flat), BLOCK):
            part = flat[start : start + BLOCK]
            part.copy_(block[: len(part)])
