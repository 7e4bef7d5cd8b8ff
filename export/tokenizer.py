"""A Llama's tokenizer: a SentencePiece model, checked and put into GGUF."""

from pathlib import Path
from typing import Any

import gguf
from sentencepiece import sentencepiece_model_pb2 as spm

from ..engines.errors import ExportError
from ..runtime.manifest import SpecialTokens


def special_tokens(folder: Path) -> SpecialTokens:
    """The special tokens of `tokenizer.model`. Raises ExportError if they are not a Llama's."""
    path = folder / "tokenizer.model"
    model = _read(path)
    trained = model.trainer_spec
    found = SpecialTokens(trained.unk_id, trained.bos_id, trained.eos_id)
    for text, token in found.by_text.items():
        if not 0 <= token < len(model.pieces) or model.pieces[token].piece != text:
            raise ExportError(f"{path}: token {token} is not {text}, as a Llama's is")
    return found


def _read(path: Path) -> Any:
    model = spm.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except Exception as error:  # protobuf's errors and the system's share no base
        raise ExportError(f"{path}: cannot be read as a SentencePiece model: {error}") from None
    return model


def add_tokenizer(writer: Any, folder: Path, vocabulary: int) -> None:
    """Put `tokenizer.model` into a GGUF file, without a chat template: the bundle's own template rules.

    Raises ExportError for a tokenizer that llama.cpp would not reproduce.
    """
    path = folder / "tokenizer.model"
    model = _read(path)
    try:
        pieces = list(gguf.SentencePieceVocab(folder).all_tokens())
    except Exception as error:  # SentencePiece's and gguf's errors share no base
        raise ExportError(f"{path}: cannot be read as a SentencePiece model: {error}") from None
    _check_tokenizer(model, path)
    if len(model.pieces) > vocabulary:
        raise ExportError(f"{path}: {len(model.pieces)} pieces, but the model's vocabulary has {vocabulary}")
    del pieces[vocabulary:]  # added tokens that the model has no embedding for, as in the first Llama-2 releases
    # Some checkpoints pad the vocabulary beyond the tokenizer.
    padding = range(len(pieces), vocabulary)
    pieces += [(f"[PAD{i}]".encode(), -1000.0, gguf.TokenType.UNUSED) for i in padding]
    tokens, scores, kinds = zip(*pieces, strict=True)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(model.trainer_spec.bos_id)
    writer.add_eos_token_id(model.trainer_spec.eos_id)
    writer.add_unk_token_id(model.trainer_spec.unk_id)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(True)


def _check_tokenizer(model: Any, path: Path) -> None:
    trained, normaliser = model.trainer_spec, model.normalizer_spec
    if trained.model_type != spm.TrainerSpec.BPE or not trained.byte_fallback:
        raise ExportError(f"{path}: not a BPE model with byte fallback, as a Llama's is")
    if normaliser.remove_extra_whitespaces or not normaliser.add_dummy_prefix or normaliser.precompiled_charsmap:
        raise ExportError(f"{path}: it normalises text, which llama.cpp would not do")
