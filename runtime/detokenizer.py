"""Turns tokens into text while an answer is generated, and ends the answer at a stop string or token."""

import codecs
from collections.abc import Sequence

from ..engines.base import LanguageModel
from .manifest import SpecialTokens, Template
from .sampling import GenerationConfig
from .stop_strings import StopFilter

# The original's SentencePiece gives one U+FFFD for each byte that is not UTF-8; Python's own "replace" gives
# one for a whole broken sequence, and the next turn's prompt would then differ.
codecs.register_error(
    "skingpt-each-byte",
    lambda error: ("\ufffd" * (error.end - error.start), error.end),  # type: ignore[attr-defined]
)


def utf8_decoder() -> codecs.IncrementalDecoder:
    """A decoder that holds back the bytes of an unfinished character."""
    return codecs.getincrementaldecoder("utf-8")(errors="skingpt-each-byte")


class Detokenizer:
    """Takes the tokens of one answer as they are generated and gives the text that a reader sees."""

    def __init__(
        self, model: LanguageModel, template: Template, special: SpecialTokens, config: GenerationConfig
    ) -> None:
        self.tokens: list[int] = []
        self.text = ""
        """What a reader was shown so far."""
        self.finish_reason = ""
        """Empty while there is more to come; see `Answer.finish_reason`."""
        self._model = model
        self._special = special
        self._config = config
        self._decoder = utf8_decoder()
        self._visible = StopFilter((*template.stop, *config.stop), template.answer_after)

    def add(self, token: int) -> str:
        """Take the next token; the text that a reader is shown because of it."""
        self.tokens.append(token)
        if token == self._special.eos:
            self.finish_reason = "eos"
            return ""
        new = self._decoder.decode(self._latest_bytes())
        shown = self._visible.push(new)
        self.text += shown
        if not self._config.ignore_stop and self._visible.stopped:
            self.finish_reason = "stop"
        elif len(self.tokens) == self._config.max_new_tokens:
            self.finish_reason = "length"
        return shown

    def finish(self) -> str:
        """The text that was held back because it could have become a stop string or a whole character."""
        rest = self._decoder.decode(b"", final=True)
        shown = self._visible.push(rest) + self._visible.finish()
        self.text += shown
        return shown

    def _latest_bytes(self) -> bytes:
        """What the latest token adds to the text."""
        unk, bos = self._special.unk, self._special.bos
        if tuple(self.tokens) in ((unk,), (bos,), (unk, bos)):
            return b""
        return self._model.token_bytes(self.tokens[-1])


def original_text(tokens: Sequence[int], model: LanguageModel, special: SpecialTokens) -> str:
    """An answer's tokens as the original's tokenizer decodes them (transformers' slow LlamaTokenizer).

    It drops one `<unk>` and one `<s>` from the start. It decodes the runs between special tokens one by one, each
    without its dummy prefix, and puts a space before a run that a special token ends.
    """
    names = {token: name for name, token in special.by_text.items()}
    tokens = list(tokens)
    for dropped in (special.unk, special.bos):
        if tokens[:1] == [dropped]:
            tokens = tokens[1:]
    text, run, after_special = "", b"", False
    for token in tokens:
        if token in names:
            text += "" if after_special else " "
            text += _decode_run(run) + names[token]
            run, after_special = b"", True
        else:
            run += model.token_bytes(token)
            after_special = False
    return text + _decode_run(run)


def _decode_run(run: bytes) -> str:
    return utf8_decoder().decode(run, final=True).removeprefix(" ")
