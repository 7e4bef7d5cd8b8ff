"""Options that several commands share: which bundle is opened and how, and how answers are generated."""

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ...engines import registry
from ...engines.base import KV_TYPES, LAYOUTS
from ...engines.errors import BundleError
from ..bundle import default_bundle, find_bundle
from ..options import Options
from ..sampling import GenerationConfig
from ..skingpt import SkinGPT
from .terminal import show_hashing

BUNDLE_HELP = "folder of a bundle, or the name of an installed one (default: the demonstration bundle)"
JSON_HELP = "print one JSON document"
Number = TypeVar("Number", int, float)


class UsageError(Exception):
    """An option has a value that it cannot have."""


def sentence(words: str) -> str:
    """A command's line in the list of commands, as the sentence above its own help."""
    return f"{words[0].upper()}{words[1:]}."


def name_flag(message: str) -> str:
    """A message that begins with an option's name in Python, beginning with its name on the command line."""
    name, _, rest = message.partition(" ")
    return f"--{'max-new-tokens' if name == 'sample_tokens' else name.replace('_', '-')} {rest}"


def bundle_folder(text: str) -> Path:
    """A bundle's folder, or the name it is installed under.

    An empty path, as of a variable that is not set, is not the folder that the user is in.
    """
    if not text:
        raise ArgumentTypeError("the path of the bundle is empty")
    try:
        return find_bundle(text)
    except BundleError as error:
        raise ArgumentTypeError(str(error)) from None


def file_path(text: str) -> Path:
    """As for a bundle: an empty path is none."""
    if not text:
        raise ArgumentTypeError("the path is empty")
    return Path(text)


@dataclass(frozen=True)
class Model:
    """The bundle that a command opens, and how."""

    bundle: Path
    verify: bool
    options: Options

    def open(self) -> SkinGPT:
        """Raises as `SkinGPT.open` does."""
        return SkinGPT.open(self.bundle, verify=self.verify, progress=show_hashing, options=self.options)


def add_model(parser: ArgumentParser) -> None:
    parser.add_argument("--bundle", type=bundle_folder, metavar="BUNDLE", help=BUNDLE_HELP)
    parser.add_argument(
        "--verify", action="store_true", help="check all files of the bundle first, also if that was done before"
    )
    parser.add_argument("--no-image-cache", action="store_true", help="encode a picture again if it comes twice")
    add_setup(parser)
    parser.add_argument("--no-tuning", action="store_true", help="ignore what `skingpt tune` has measured")


def add_setup(parser: ArgumentParser) -> None:
    """Engines, devices, threads, and how the language model lies in memory."""
    devices = registry.devices()
    parser.add_argument(
        "--device",
        choices=devices,
        default="cpu",
        help="what the language model runs on, and vision unless its graphs have 8 bits (default: %(default)s)",
    )
    parser.add_argument("--vision-device", choices=devices, help="what vision runs on (default: as --device says)")
    halves = (
        ("vision", registry.GRAPH_ENGINES, "vision"),
        ("language", registry.LANGUAGE_MODELS, "the language model"),
    )
    for half, engines, name in halves:
        said = f"library that runs {name} (default: the first one for the device that is installed)"
        parser.add_argument(f"--{half}-engine", choices=engines, help=said)
    parser.add_argument(
        "--threads", type=int, metavar="N", help="threads (default: what `skingpt tune` found, or one for each core)"
    )
    parser.add_argument(
        "--gpu-layers", type=int, metavar="N", help="layers of the language model on the GPU (default: all)"
    )
    parser.add_argument(
        "--context", type=int, metavar="N", help="longest conversation, in tokens (default: the bundle's)"
    )
    parser.add_argument(
        "--kv-type", choices=KV_TYPES, help="number format of the KV cache, keys/values (default: the bundle's)"
    )
    parser.add_argument(
        "--layout",
        choices=LAYOUTS,
        help="how the language model's weights lie in memory (default: what `skingpt tune` remembered, or repacked)",
    )


def parse_setup(given: Namespace, **more: Any) -> Options:
    """The options that `add_setup` and `more` name. Raises InputError for a value out of range."""
    engines = ("device", "vision_device", "vision_engine", "language_engine", "threads", "gpu_layers")
    names = (*engines, "context", "kv_type", "layout")
    return Options(**{name: getattr(given, name) for name in names}, **more)


def parse_model(given: Namespace, **more: Any) -> Model:
    """The bundle and its options; `more` are options that a command sets itself. Raises InputError."""
    options = parse_setup(
        given,
        tuning=not given.no_tuning,
        image_cache=0 if given.no_image_cache else Options.image_cache,
        huge_pages=True,
        **more,
    )
    return Model(given.bundle or default_bundle(), given.verify, options)


@dataclass(frozen=True)
class Generation:
    """How answers are generated; None leaves a choice to the bundle."""

    max_new_tokens: int | None
    temperature: float | None
    top_p: float | None
    seed: int
    ignore_stop: bool

    def config(self, defaults: GenerationConfig) -> GenerationConfig:
        """Filled up with a bundle's defaults. Raises InputError for a value out of range."""
        return GenerationConfig(
            max_new_tokens=_chosen(self.max_new_tokens, defaults.max_new_tokens),
            temperature=_chosen(self.temperature, defaults.temperature),
            top_p=_chosen(self.top_p, defaults.top_p),
            seed=self.seed,
            ignore_stop=self.ignore_stop,
        )


def _chosen(value: Number | None, default: Number) -> Number:
    return default if value is None else value


def add_generation(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--max-new-tokens", type=int, metavar="N", help="longest answer, in tokens (default: the bundle's)"
    )
    parser.add_argument(
        "--temperature", type=float, metavar="T",
        help="how much chance there is in an answer; 0: always the likeliest token (default: the bundle's)",
    )  # fmt: skip
    parser.add_argument(
        "--top-p", type=float, metavar="P",
        help="with a temperature: sample from the likeliest tokens that together have this probability",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N",
        help="the same seed gives the same sampled answers (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--ignore-stop", action="store_true", help="go on where an answer would end; for comparing engines"
    )


def parse_generation(given: Namespace, *, sampled: bool = False) -> Generation:
    """`sampled`: the command samples also without a temperature. Raises InputError, UsageError."""
    if given.top_p is not None and not given.temperature and not sampled:
        raise UsageError("--top-p has no effect without --temperature")
    generation = Generation(given.max_new_tokens, given.temperature, given.top_p, given.seed, given.ignore_stop)
    generation.config(GenerationConfig())
    return generation


@dataclass(frozen=True)
class BundleOnly:
    """The arguments of a command that asks nothing."""

    bundle: Path
    json: bool


@dataclass(frozen=True)
class BundleAndOptions(BundleOnly):
    """The arguments of a command that asks nothing, but looks at how the bundle would be run."""

    options: Options


def parse_bundle(given: Namespace) -> BundleOnly:
    return BundleOnly(given.bundle or default_bundle(), given.json)


def add_bundle(parser: ArgumentParser) -> None:
    """The bundle alone, and JSON output, for commands that ask nothing."""
    parser.add_argument("bundle", nargs="?", type=bundle_folder, metavar="BUNDLE", help=BUNDLE_HELP)
    parser.add_argument("--json", action="store_true", help=JSON_HELP)
