"""`bundle`, `synth`, `compare`, `upgrade` and `engine`: make bundles."""

import argparse
import json
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ...engines.errors import ExportError
from ...engines.tensorrt_rtx_plan import TARGETS
from ...runtime.skingpt import SkinGPT
from .command import Commands, add, tell

DEFAULT_VISION, DEFAULT_LLM = "auto", "q4_k_m"
TYPES = ("q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0", "iq4_nl", "iq4_xs")
"""What `compare` and `--llm-type auto` choose from."""
SHAPES = ("tiny", "7b", "13b")
SOURCES = ("vit", "qformer", "adapter", "llm")
OF_CHECKPOINTS = ("pictures", "calibrate", "count")
"""Options of `compare` that random weights have no use for."""

if TYPE_CHECKING:
    from ...runtime.bundle import Bundle
    from ...runtime.manifest import TypeFigures
    from ..make import Checkpoints


def add_bundle_commands(commands: Commands) -> None:
    vision, originals, made = _vision_option(), _original_options(required=True), _output_options()
    bundle = add(
        commands,
        "bundle",
        parents=[made, vision, originals],
        help="make a bundle from the original's checkpoints, and compare it with them",
    )
    bundle.add_argument(
        "--accept-parity",
        action="store_true",
        help="keep the bundle even if it differs by more than a limit, and record that in it",
    )
    bundle.add_argument(
        "--notice",
        metavar="TEXT",
        help="sentence shown with every report (default: that it is no diagnosis, and to see a doctor)",
    )
    bundle.set_defaults(run=_bundle)

    compare = add(
        commands,
        "compare",
        parents=[vision, _original_options(required=False)],
        help="measure the types that a language model can have: size, time, and what they lose",
    )
    compare.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="empty folder for the results")
    compare.add_argument(
        "--shape",
        choices=SHAPES,
        help="compare size and speed alone, of random weights of this size, instead of a model's checkpoints",
    )
    compare.add_argument(
        "--name", metavar="NAME", help="title of the plot (default: the language model's folder, or the shape)"
    )
    compare.add_argument(
        "--types",
        default=",".join(TYPES),
        metavar="LIST",
        help="llama.cpp's names with commas between them (default: %(default)s)",
    )
    compare.add_argument(
        "--count",
        type=int,
        metavar="N",
        help="also count what each type says right about N held-out drawings: for the demonstration model",
    )
    compare.set_defaults(run=_compare)

    synth = add(
        commands, "synth", parents=[made, vision], help="make a bundle of full size with random weights, for measuring"
    )
    synth.add_argument("--shape", required=True, choices=SHAPES, help="size of the model")
    synth.set_defaults(run=_synth)
    _add_commands_on_bundles(commands)


def _add_commands_on_bundles(commands: Commands) -> None:
    upgrade = add(commands, "upgrade", help="rewrite bundle.json in the newest format, with a self-test")
    upgrade.add_argument("output", type=Path, metavar="BUNDLE", help="folder of the bundle; bundle.json is replaced")
    upgrade.add_argument("--json", action="store_true", help="print the result as JSON on standard output")
    upgrade.set_defaults(run=_upgrade, kept="bundle.json is as it was")

    engine = add(commands, "engine", help="build TensorRT-RTX's plans of a bundle ahead of time, without a GPU")
    engine.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of the bundle")
    engine.add_argument(
        "--target", required=True, choices=TARGETS, help="compute capability of the GPU that they are for"
    )
    engine.set_defaults(run=_engine, kept="plans that were finished are kept")


def _output_options() -> argparse.ArgumentParser:
    """Of commands that write a bundle."""
    made = argparse.ArgumentParser(add_help=False)
    made.add_argument(
        "-o", "--output", type=Path, required=True, metavar="BUNDLE", help="folder to write the bundle to"
    )
    made.add_argument(
        "--llm-type",
        default=DEFAULT_LLM,
        metavar="TYPE",
        help="the language model's precision, by llama.cpp's name: f32, f16, q8_0, q4_k_m, …; auto: compare several, "
        "and take the fastest that loses a point at most (default: %(default)s)",
    )
    made.add_argument("--name", metavar="NAME", help="name of the model, shown with every report")
    made.add_argument("--force", action="store_true", help="replace an existing bundle")
    made.add_argument("--json", action="store_true", help="print the result as JSON on standard output")
    return made


def _vision_option() -> argparse.ArgumentParser:
    vision = argparse.ArgumentParser(add_help=False)
    vision.add_argument(
        "--vision",
        default=DEFAULT_VISION,
        choices=("auto", "f32", "f16", "int8", "int8-block"),
        help="precision of vision; auto: int8, or int8-block where int8 is too coarse (default: %(default)s)",
    )
    return vision


def _original_options(*, required: bool) -> argparse.ArgumentParser:
    """Of commands that read the original's checkpoints."""
    originals = argparse.ArgumentParser(add_help=False)
    for name, kind, help in (
        ("--vit", "FILE", "the vision encoder's checkpoint, eva_vit_g.pth"),
        ("--qformer", "FILE", "the Q-Former's checkpoint, blip2_pretrained_flant5xxl.pth"),
        (
            "--adapter",
            "FILE",
            "SkinGPT-4's own checkpoint; what is in it takes the place of what is in the others",
        ),
        ("--llm", "DIR", "folder of the Llama model, as from Hugging Face"),
    ):
        originals.add_argument(name, type=Path, required=required, metavar=kind, help=help)
    originals.add_argument(
        "--template",
        default="skingpt4",
        metavar="NAME|FILE",
        help="how the prompt is written: a name, or a JSON file (default: %(default)s)",
    )
    originals.add_argument(
        "--pictures", type=Path, metavar="DIR", help="folder of pictures to compare on (default: drawn samples)"
    )
    originals.add_argument(
        "--calibrate",
        type=Path,
        metavar="DIR|FILE",
        help="quantise with regard to these: pictures, each with a .txt of the same name, whose paragraphs answer the "
        "report's questions; or the importance.gguf of an earlier bundle",
    )
    return originals


def _bundle(options: argparse.Namespace) -> None:
    from ..bundle_writer import NOTICE
    from ..make import Choices, export_bundle
    from ..templates import read_template

    pictures = _pictures(options)
    choices = Choices(
        vision=options.vision,
        llm_type=options.llm_type.lower(),
        name=options.name or options.output.resolve().name,
        template=read_template(options.template),
        force=options.force,
        accept_parity=options.accept_parity,
        notice=options.notice or NOTICE,
        calibrate=options.calibrate,
        types=TYPES,
    )
    tell(options, export_bundle(_sources(options), options.output, choices, pictures))


def _sources(options: argparse.Namespace) -> "Checkpoints":
    from ..make import Checkpoints

    return Checkpoints(options.vit, options.qformer, options.adapter, options.llm)


def _pictures(options: argparse.Namespace) -> list[Path]:
    """The pictures to compare on. Raises ExportError if there are none."""
    from ..make import sample_pictures

    if not options.pictures:
        return sample_pictures()[:3]
    if not options.pictures.is_dir():
        raise ExportError(f"{options.pictures}: no such directory")
    pictures = sorted(path for path in options.pictures.iterdir() if path.is_file())
    if not pictures:
        raise ExportError(f"{options.pictures}: no pictures to compare on")
    return pictures


def _compare(options: argparse.Namespace) -> None:
    from ..compare import table
    from ..compare_plot import check_plotter, plot_types

    _check_compared(options)
    check_plotter()
    if options.output.exists() and any(options.output.iterdir()):
        raise ExportError(f"{options.output}: not empty; name a new folder")
    options.output.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=options.output) as work:
        name, rows = _compared_rows(options, Path(work))
    (options.output / "types.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    (options.output / "types.md").write_text(table(rows) + "\n")
    print(table(rows))
    plot_types(rows, name, options.output / "types.png")


def _check_compared(options: argparse.Namespace) -> None:
    """Raises ExportError unless either a shape or all checkpoints are named."""
    given = [f"--{name}" for name in (*SOURCES, *OF_CHECKPOINTS) if getattr(options, name) is not None]
    if options.shape and given:
        raise ExportError(f"--shape compares random weights, which have no use for {', '.join(given)}")
    missing = [f"--{name}" for name in SOURCES if getattr(options, name) is None]
    if missing and not options.shape:
        raise ExportError(f"{', '.join(missing)} missing: name all of the model's checkpoints, or --shape")


def _compared_rows(options: argparse.Namespace, work: Path) -> tuple[str, list["TypeFigures"]]:
    """The name of what was compared, and its figures; bundles are left in `work`."""
    from ..demo.evaluate import held_out_seeds
    from ..make import Choices, compare_checkpoints, compare_shape
    from ..templates import read_template

    choices = Choices(
        vision=options.vision,
        llm_type="auto",
        name=options.name or (f"synthetic-{options.shape}" if options.shape else options.llm.resolve().name),
        template=read_template(options.template),
        calibrate=options.calibrate,
        types=tuple(kind.strip().lower() for kind in options.types.split(",")),
    )
    if options.shape:
        return choices.name, compare_shape(options.shape, work, choices)
    count = None if options.count is None else partial(_count_attributes, options.count)
    if count:
        held_out_seeds(0, options.count)  # refused before anything is measured
    return choices.name, compare_checkpoints(_sources(options), work, choices, _pictures(options), count)


def _count_attributes(count: int, bundle: "Bundle") -> tuple[int, int]:
    from ..demo.evaluate import evaluate
    from ..demo.score import score

    with SkinGPT.open(bundle.path) as model:
        found = score(evaluate(model, count, 0).cases)["attributes"]
    return found.right, found.of


def _synth(options: argparse.Namespace) -> None:
    from ..make import Choices, synthesise_bundle

    name = options.name or f"synthetic-{options.shape}"
    choices = Choices(options.vision, options.llm_type.lower(), name, force=options.force)
    tell(options, synthesise_bundle(options.shape, options.output, choices))


def _upgrade(options: argparse.Namespace) -> None:
    from ..make import upgrade_bundle

    tell(options, upgrade_bundle(options.output))


def _engine(options: argparse.Namespace) -> None:
    from ...runtime.plan_cache import build_ahead
    from ...runtime.verification import open_bundle

    begun = time.perf_counter()
    for built in build_ahead(open_bundle(options.bundle), options.target):
        seconds, begun = time.perf_counter() - begun, time.perf_counter()
        print(f"{built.graph} for {options.target}: {built.size / 1e6:,.0f} MB in {seconds:.1f} s: {built.file}")
