"""`--server`: a running service answers, in place of a model in this process."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable

from ...engines.errors import ImageError, InputError, ServiceError
from ..client import ADDRESS, AnswerOptions, Client, ServedConversation, ServedReport, TextPiece
from ..printable import printable
from .arguments import Generation, UsageError, file_path
from .terminal import note_lines, print_heading, print_report_end

GENERATION = ("max_new_tokens", "temperature", "top_p", "seed")
KEPT = {"images", "json", "server", "token_file", *GENERATION}
"""Options that can be followed when a service answers."""
OF_THE_PICTURE = {"image_unusable", "image_decoder_died", "body_too_large"}
"""Codes of a service's errors that are the picture's fault."""


def add_server(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--server", nargs="?", const=ADDRESS, metavar="ADDRESS",
        help="let a running `skingpt serve` answer: http://127.0.0.1:PORT or unix:/path/to/socket "
        "(without ADDRESS: %(const)s)",
    )  # fmt: skip
    parser.add_argument(
        "--token-file",
        type=file_path,
        metavar="FILE",
        help="with --server: the service's token file (default: ~/.local/state/skingpt-edge/token)",
    )


def parse_client(given: Namespace, configure: Callable[[ArgumentParser], None]) -> Client | None:
    """The client of the service that is to answer, if one is; `configure` adds all options of the command.

    Raises UsageError for an address that is none, and for options that a service cannot follow.
    """
    if given.server is None:
        if given.token_file:
            raise UsageError("--token-file needs --server")
        return None
    plain = ArgumentParser()
    configure(plain)
    for name, default in vars(plain.parse_args(["IMAGE"])).items():
        if name not in KEPT and getattr(given, name) != default:
            reason = "a service asks its bundle's questions, and runs as it was started"
            raise UsageError(f"--{name.replace('_', '-')} and --server do not go together: {reason}")
    try:
        return Client(given.server, token_file=given.token_file)
    except InputError as error:
        raise UsageError(f"--server: {error}. Pictures stand before it") from None


def served_report(client: Client, data: bytes, name: str, *, generation: Generation, as_json: bool) -> None:
    """Print a picture's report, as it is made or as JSON. Raises ImageError, ServiceError, InputError."""
    current = -1
    options = AnswerOptions(
        max_new_tokens=generation.max_new_tokens,
        temperature=generation.temperature,
        top_p=generation.top_p,
        seed=generation.seed,
    )
    try:
        for event in client.stream_report(data, **options):
            if isinstance(event, ServedReport):
                image = {**event.document["image"], "name": name}
                print_report_end({**event.document, "image": image}, as_json=as_json)
            elif isinstance(event, ServedConversation) and not as_json:
                print(note_lines(note["text"] for note in event.notes), end="", flush=True)
            elif isinstance(event, TextPiece) and not as_json:
                if event.number != current:
                    current = event.number
                    print_heading(current, event.section)
                print(printable(event.text), end="", flush=True)
    except ServiceError as error:
        if error.code not in OF_THE_PICTURE:
            raise
        raise ImageError(f"{name}: {str(error).removeprefix('the photo: ')}") from None
