"""`evaluate`, `robustness` and `demo-model`: the demonstration model, and how often it is right."""

import argparse
import json
from pathlib import Path

from ...engines.errors import ExportError
from ...runtime.bundle import default_bundle, read_bundle
from ...runtime.skingpt import SkinGPT
from ..progress import step
from .command import Commands, add, tell


def add_demo_commands(commands: Commands) -> None:
    asked = argparse.ArgumentParser(add_help=False)
    asked.add_argument(
        "bundle",
        nargs="?",
        type=Path,
        metavar="BUNDLE",
        help="folder of the bundle (default: the demonstration bundle)",
    )
    asked.add_argument(
        "--seed", type=int, default=0, metavar="N", help="which held-out drawings (default: %(default)s)"
    )
    asked.add_argument(
        "--torch", type=Path, metavar="DIR", help="ask these checkpoints in torch float32, with the prompts of BUNDLE"
    )

    evaluate = add(
        commands,
        "evaluate",
        parents=[asked],
        help="count what a demonstration bundle says right about held-out drawings",
    )
    evaluate.add_argument(
        "--pictures", type=int, default=500, metavar="N", help="how many drawings (default: %(default)s)"
    )
    evaluate.add_argument(
        "--drawings", choices=("hard", "easy"), default="hard", help="which kind of drawings (default: %(default)s)"
    )
    evaluate.add_argument("--json", action="store_true", help="print the counts as JSON on standard output")
    evaluate.add_argument(
        "--mistakes", type=Path, metavar="DIR", help="folder to write the pictures to that it was wrong about"
    )
    evaluate.set_defaults(run=_evaluate)

    robustness = add(
        commands,
        "robustness",
        parents=[asked],
        help="count the same on drawings that are turned, dark, blurred or small, and plot it",
    )
    robustness.add_argument(
        "--pictures", type=int, default=100, metavar="N", help="how many drawings at each level (default: %(default)s)"
    )
    robustness.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder to write to")
    robustness.set_defaults(run=_robustness)

    demo = add(
        commands,
        "demo-model",
        help="train the demonstration model from nothing, export and evaluate it (35 minutes on 2 cores)",
    )
    demo.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder for all that comes of it")
    demo.add_argument("--resume", action="store_true", help="go on after an interruption")
    demo.add_argument("--json", action="store_true", help="print the result as JSON on standard output")
    demo.set_defaults(run=_demo_model, kept="--resume goes on after the last finished step")


def _evaluate(options: argparse.Namespace) -> None:
    from ..demo.evaluate import evaluate, held_out_seeds, save_mistakes, table

    held_out_seeds(options.seed, options.pictures)  # refused before anything is loaded
    _check_outside(options.mistakes, options.bundle)
    if options.mistakes:
        options.mistakes.mkdir(parents=True, exist_ok=True)
    with _asked(options) as model:
        found = evaluate(model, options.pictures, options.seed, options.drawings)
    print(json.dumps(found.to_json(), indent=1) if options.json else table(found))
    if options.mistakes:
        step(f"{save_mistakes(found, options.mistakes)} pictures with mistakes: {options.mistakes}")


def _robustness(options: argparse.Namespace) -> None:
    from ..compare_plot import check_plotter
    from ..demo.plots import plot_robustness
    from ..demo.robustness import choose_scenes, disturb

    check_plotter()
    choose_scenes(options.pictures, options.seed)  # refused before anything is loaded
    _check_outside(options.output, options.bundle)
    options.output.mkdir(parents=True, exist_ok=True)
    with _asked(options) as model:
        found = disturb(model, options.pictures, options.seed)
    plot_robustness(found, options.output / "robustness.png")
    (options.output / "robustness.json").write_text(json.dumps(found.to_json(), indent=1) + "\n")
    print(f"{options.output}: robustness.png, robustness.json\n{found.notice}")


def _demo_model(options: argparse.Namespace) -> None:
    from ..demo.make_demo import make_demo_model

    manifest = make_demo_model(options.output, resume=options.resume)
    options.output /= "bundle"
    tell(options, manifest)


def _asked(options: argparse.Namespace) -> SkinGPT:
    """The model that is to be asked: a bundle, or the checkpoints it was made from in torch."""
    bundle = options.bundle or default_bundle()
    if not options.torch:
        return SkinGPT.open(bundle)
    from ..demo.checkpoint import checkpoints_in
    from ..torch_engines import open_original

    return open_original(checkpoints_in(options.torch), read_bundle(bundle))


def _check_outside(folder: Path | None, bundle: Path | None) -> None:
    """Raises ExportError for results in a bundle, which would not be opened again."""
    if folder and folder.resolve() == (bundle or default_bundle()).resolve():
        raise ExportError(f"{folder}: is the bundle that is asked: name another folder for the results")
