"""An answer while it is written: from tokens to text, and when to stop."""

from ..engines.base import LanguageModel
from .manifest import Template
from .prompt import SPECIAL_TOKENS
from .sampling import GenerationConfig
from .text import StopFilter, utf8_decoder

# The original drops these from the start of an answer, one each, in this order.
UNK, BOS = SPECIAL_TOKENS["<unk>"], SPECIAL_TOKENS["<s>"]


class Writing:
    """The tokens of one answer and the text they make."""

    def __init__(self, model: LanguageModel, template: Template, config: GenerationConfig) -> None:
        self.tokens: list[int] = []
        self.text = ""
        self.finish_reason = ""
        """Empty while there is more to come; see `Answer.finish_reason`."""
        self._model = model
        self._config = config
        self._decoder = utf8_decoder()
        self._visible = StopFilter(template.stop)

    def add(self, token: int) -> str:
        """Take the next token; what a reader sees of it."""
        self.tokens.append(token)
        if token == self._model.eos:
            self.finish_reason = "eos"
            return ""
        new = self._decoder.decode(self._bytes())
        self.text += new
        piece = self._visible.push(new)
        if not self._config.ignore_stop and self._visible.stopped:
            self.finish_reason = "stop"
        elif len(self.tokens) == self._config.max_new_tokens:
            self.finish_reason = "length"
        return piece

    def finish(self) -> str:
        """What was held back, for it could have become a stop string or a whole character."""
        rest = self._decoder.decode(b"", final=True)
        self.text += rest
        return self._visible.push(rest) + self._visible.finish()

    def original_text(self) -> str:
        """The tokens as the original's tokenizer decodes them (transformers' slow LlamaTokenizer).

        It decodes the runs between special tokens one by one, each without its dummy prefix, and puts a space
        before a run that a special token ends.
        """
        names = {token: name for name, token in SPECIAL_TOKENS.items()}
        tokens = self.tokens
        for dropped in (UNK, BOS):
            if tokens[:1] == [dropped]:
                tokens = tokens[1:]
        text, run, after_special = "", b"", False
        for token in tokens:
            if token in names:
                text += "" if after_special else " "
                text += _decode_run(run) + names[token]
                run, after_special = b"", True
            else:
                run += self._model.piece(token)
                after_special = False
        return text + _decode_run(run)

    def _bytes(self) -> bytes:
        """What the latest token adds to the text."""
        if tuple(self.tokens) in ((UNK,), (BOS,), (UNK, BOS)):
            return b""
        return self._model.piece(self.tokens[-1])


def _decode_run(run: bytes) -> str:
    return utf8_decoder().decode(run, final=True).removeprefix(" ")
