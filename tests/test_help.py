"""Every command, option and argument says what it is for."""

import argparse
from collections.abc import Iterator

import pytest
from skingpt_edge.benchmarks.cli import make_parser as bench
from skingpt_edge.export.cli import make_parser as export
from skingpt_edge.runtime.cli import make_parser as runtime


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in subcommands(parser):
        for one in action.choices.values():
            yield from parsers(one)


def subcommands(parser: argparse.ArgumentParser) -> list[argparse._SubParsersAction]:
    return [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]


def problems(parser: argparse.ArgumentParser) -> Iterator[str]:
    """What is missing in the help of a parser and its subcommands."""
    for one in parsers(parser):
        if not (one.description or "").endswith("."):
            yield f"{one.prog}: its description is no sentence"
        for action in subcommands(one):
            described = {entry.dest: entry.help for entry in action._choices_actions}
            yield from (
                f"{one.prog} {name}: no help" for name in action.choices if not (described.get(name) or "").strip()
            )
        for action in one._actions:
            if not isinstance(action, argparse._SubParsersAction):
                yield from action_problems(f"{one.prog} {'/'.join(action.option_strings) or action.dest}", action)


def action_problems(name: str, action: argparse.Action) -> Iterator[str]:
    words = (action.help or "").strip()
    if len(words.split()) < 2:
        yield f"{name}: its help is {words!r}"
    if words[:1] == "(" or words.endswith("."):
        yield f"{name}: its help begins with its default, or ends with a full stop: {words!r}"
    if action.nargs != 0 and not action.choices and not (action.metavar and str(action.metavar)[0].isupper()):
        yield f"{name}: no metavar in capitals"
    if action.default not in (None, False, argparse.SUPPRESS, []) and "%(default" not in words:
        yield f"{name}: its help does not say the default {action.default!r}"


@pytest.mark.parametrize("make_parser", [runtime, export, bench])
def test_nothing_is_without_help(make_parser):
    assert list(problems(make_parser())) == []


@pytest.mark.parametrize("make_parser", [runtime, export, bench])
def test_every_help_can_be_printed(make_parser, monkeypatch):
    """A stray percent sign would only show now."""
    monkeypatch.setenv("COLUMNS", "100")
    for one in parsers(make_parser()):
        text = one.format_help()
        assert "%(" not in text and "None" not in text, one.prog


def test_what_is_missing_is_found():
    parser = argparse.ArgumentParser(prog="p", description="Do it.")
    parser.add_argument("--name", help="(default)")
    parser.add_argument("--count", type=int, default=3, metavar="N", help="how many there are")
    parser.add_subparsers(metavar="COMMAND").add_parser("run", description="Run it.")
    assert [line.split(":")[0] for line in problems(parser)] == [
        "p run",
        "p --name",
        "p --name",
        "p --name",
        "p --count",
    ]
