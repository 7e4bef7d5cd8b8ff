"""Stop strings, white space and UTF-8, however the tokens cut them."""

import random

import pytest
from sentencepiece import SentencePieceProcessor
from skingpt_edge.export.templates import SKINGPT4
from skingpt_edge.runtime.detokenizer import utf8_decoder
from skingpt_edge.runtime.manifest import SpecialTokens
from skingpt_edge.runtime.printable import printable
from skingpt_edge.runtime.prompt import Special, build_prompt
from skingpt_edge.runtime.stop_strings import StopFilter, cut_answer
from support import CHECKPOINT

SPECIAL = SpecialTokens(unk=5, bos=6, eos=7)  # not a Llama's: the ids come from the manifest


def stream(pieces, stops=("###",)):
    filtered = StopFilter(stops)
    shown = [filtered.push(piece) for piece in pieces]
    return shown, "".join(shown) + filtered.finish(), filtered.stopped


def test_a_stop_string_split_over_tokens_is_never_shown():
    shown, text, stopped = stream(["It is red.", " #", "#", "# more", "text"])
    assert text == "It is red."
    assert stopped
    assert not any("#" in piece for piece in shown)


def test_half_a_stop_string_is_text_after_all():
    shown, text, stopped = stream(["grade ##", "2", " of #"])
    assert shown[:2] == ["grade", " ##2"]
    assert text == "grade ##2 of #"
    assert not stopped


def test_text_is_cut_and_stripped_alike_however_it_is_split():
    chance = random.Random(1)
    texts = [" a  b \n", "  ", "#", "a ## b ### c", "\x1c x\u2003 ###", "ab #\n## c", "###", " ## ##", "x ####"]
    for text in texts:
        for _ in range(200):
            cuts = sorted(chance.choices(range(len(text) + 1), k=3))
            pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
            assert stream(pieces)[1] == cut_answer(text, SKINGPT4), pieces


@pytest.mark.parametrize("stop", ["###", " ", "ss", "Assistant:", ":x"])
def test_a_mark_before_the_answer_is_left_out_however_it_is_split(stop):
    chance = random.Random(1)
    for text in (" Assistant: a b \n", "Assist", "Assistant: Assistant:x ### y", "AAssistant: x", "Assistant:###", "A"):
        shown = set()
        for _ in range(200):
            cuts = sorted(chance.choices(range(len(text) + 1), k=4))
            marked = StopFilter(("###", stop), "Assistant:")
            pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
            shown.add("".join(map(marked.push, pieces)) + marked.finish())
        assert len(shown) == 1, text
        assert not next(iter(shown)).startswith("Assistant:")


@pytest.mark.parametrize("stop", [" ", "\n", "a ", " a", "b"])
def test_white_space_as_a_stop_string_does_not_end_an_answer_before_it_begins(stop):
    for text in [" a  b \n", "\n a\nb", "  ", "ab", " b"]:
        assert stream(list(text), ("###", stop))[1] == cut_answer(text, SKINGPT4, [stop]), text
    assert cut_answer(" red and flat", SKINGPT4, [" "]) == "red"


def test_of_several_stop_strings_the_first_counts():
    assert stream(["one EN", "D two ###"], ("###", "END"))[1] == "one"


def test_the_answer_is_what_follows_the_last_assistant():
    assert cut_answer("Human: x Assistant: y Assistant: z ### w", SKINGPT4) == "z"
    assert cut_answer(" plain ", SKINGPT4) == "plain"


def test_a_character_split_over_tokens_is_whole_or_held_back():
    decoder = utf8_decoder()
    data = "é€😀".encode()
    assert [decoder.decode(bytes([byte])) for byte in data] == ["", "é", "", "", "€", "", "", "", "😀"]


@pytest.mark.parametrize(
    "data", [b"\xff", b"a\xe2\x82b", b"\xf0\x9f\x98", b"\xc0\x80", b"\xed\xa0\x80x", b"\xe2\x82\xe2\x82\xac"]
)
def test_invalid_bytes_are_replaced_as_sentencepiece_replaces_them(data):
    tokenizer = SentencePieceProcessor(model_file=str(CHECKPOINT / "llm/tokenizer.model"))
    tokens = [tokenizer.piece_to_id(f"<0x{byte:02X}>") for byte in data]
    decoder = utf8_decoder()
    found = "".join(decoder.decode(bytes([byte])) for byte in data) + decoder.decode(b"", final=True)
    assert found == tokenizer.decode(tokens)


def test_control_characters_do_not_reach_a_terminal():
    assert printable("a\x1b[2Jb\n\tc\x9b\u202e") == "a\ufffd[2Jb\n\tc\ufffd\ufffd"


def test_letters_of_any_language_reach_it():
    text = "Traitement\u00a0: 皮膚\u3000क\u094d\u200dष"
    assert printable(text) == text


def test_a_prompt_is_built_as_the_original_builds_it():
    prompt = build_prompt(SKINGPT4, SPECIAL, [("Q1", "A1")], "Q2")
    assert prompt.before.endswith("Please answer my questions.###Human: <Img>")
    assert prompt.after == ("</Img> Q1###Assistant: A1###Human: Q2###Assistant:",)
    assert prompt.text.endswith("<Img><ImageHere></Img> Q1###Assistant: A1###Human: Q2###Assistant:")


def test_an_end_of_sequence_token_stays_one_in_the_next_prompt():
    turns = [("Q1", "A1</s>"), ("Q2 </s>", "A2")]
    prompt = build_prompt(SKINGPT4, SPECIAL, turns, "Q3")
    assert prompt.after == (
        "</Img> Q1###Assistant: A1",
        Special(7, "</s>"),
        "###Human: Q2 </s>###Assistant: A2###Human: Q3###Assistant:",
    )


def test_marks_in_a_question_stay_text():
    prompt = build_prompt(SKINGPT4, SPECIAL, [("{question} <ImageHere>", "{answer} {question}")], "{question}")
    assert prompt.before == build_prompt(SKINGPT4, SPECIAL, [], "x").before
    assert prompt.after == (
        "</Img> {question} <ImageHere>###Assistant: {answer} {question}###Human: {question}###Assistant:",
    )
