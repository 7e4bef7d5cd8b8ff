"""`skingpt-export`: make bundles, and measure how often the demonstration model is right.

Exit codes: 0 done, 2 usage, 3 a picture cannot be used, 4 checkpoints or bundle, 6 an engine failed.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ..engines.errors import ExportError, SkinGPTError
from ..engines.tensorrt_rtx_plan import TARGETS
from ..runtime.bundle import default_bundle, read_bundle
from ..runtime.cli.arguments import sentence
from ..runtime.manifest import Manifest
from ..runtime.skingpt import SkinGPT
from .progress import step

DEFAULT_VISION, DEFAULT_LLM = "auto", "q4_k_m"

if TYPE_CHECKING:
    Commands: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]


def main(arguments: Sequence[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    try:
        options.run(options)
    except SkinGPTError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"interrupted; {options.kept}", file=sys.stderr)
        return 130
    except OSError as error:
        print(f"error: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return ExportError.exit_code
    return 0


def _tell(options: argparse.Namespace, manifest: Manifest) -> None:
    text = manifest.to_json()
    if options.json:
        parity = asdict(manifest.parity) if manifest.parity else None
        bundle_id = sha256(text.encode()).hexdigest()
        print(json.dumps({"bundle": str(options.output), "id": bundle_id, "parity": parity}))
        return
    megabytes = sum(entry.size for entry in manifest.files.values()) / 1e6
    print(f"{options.output}: {megabytes:,.0f} MB, {manifest.vision.precision} vision, {manifest.llm.type} LLM")
    if manifest.parity and manifest.parity.failures:
        print("kept although it misses limits: " + "; ".join(manifest.parity.failures))


def _bundle(options: argparse.Namespace) -> None:
    from .bundle_writer import NOTICE
    from .make import Checkpoints, Choices, export_bundle, sample_pictures
    from .templates import read_template

    pictures = sample_pictures()[:3]
    if options.pictures:
        if not options.pictures.is_dir():
            raise ExportError(f"{options.pictures}: no such directory")
        pictures = sorted(path for path in options.pictures.iterdir() if path.is_file())
    if not pictures:
        raise ExportError("no pictures to measure parity on: name a folder with --pictures")
    choices = Choices(
        vision=options.vision,
        llm_type=options.llm_type.lower(),
        name=options.name or options.output.resolve().name,
        template=read_template(options.template),
        force=options.force,
        accept_parity=options.accept_parity,
        notice=options.notice or NOTICE,
        calibrate=options.calibrate,
    )
    sources = Checkpoints(options.vit, options.qformer, options.adapter, options.llm)
    _tell(options, export_bundle(sources, options.output, choices, pictures))


def _synth(options: argparse.Namespace) -> None:
    from .make import Choices, synthesise_bundle

    name = options.name or f"synthetic-{options.shape}"
    choices = Choices(options.vision, options.llm_type.lower(), name, force=options.force)
    _tell(options, synthesise_bundle(options.shape, options.output, choices))


def _upgrade(options: argparse.Namespace) -> None:
    from .make import upgrade_bundle

    _tell(options, upgrade_bundle(options.output))


def _engine(options: argparse.Namespace) -> None:
    from ..runtime.plan_cache import build_ahead
    from ..runtime.verification import open_bundle

    begun = time.perf_counter()
    for built in build_ahead(open_bundle(options.bundle), options.target):
        seconds, begun = time.perf_counter() - begun, time.perf_counter()
        print(f"{built.graph} for {options.target}: {built.size / 1e6:,.0f} MB in {seconds:.1f} s: {built.file}")


def _keygen(options: argparse.Namespace) -> None:
    from .signing import ask_password, make_keys

    # Added, not replaced: a name may have a dot.
    secret, public = (options.output.with_name(options.output.name + ending) for ending in (".key", ".pub"))
    password = None
    if not options.no_password:
        password = ask_password("Password of the new key: ")
        if not password or password != ask_password("The same again: "):
            raise ExportError("the two passwords differ, or are empty; --no-password makes a key without one")
    number = make_keys(secret, public, password=password)
    print(f"{secret}: the secret key; nobody else may read it")
    print(f"{public}: the public key {number}, to be given away")


def _pack(options: argparse.Namespace) -> None:
    from .pack import pack_bundle
    from .signing import read_secret_key

    key = read_secret_key(options.key) if options.key else None
    packed = pack_bundle(
        options.bundle, options.output, key=key, name=options.name, version=options.version, force=options.force
    )
    facts = {"package": str(packed.path), "name": packed.index.name, "version": packed.index.version}
    if options.json:
        print(json.dumps({**facts, "bundle_id": packed.index.bundle_id, "signed": packed.signed}))
        return
    signed = "signed" if packed.signed else "NOT SIGNED: it can be installed with --unsigned only"
    megabytes = packed.path.stat().st_size / 1e6
    print(f"{packed.path}: {packed.index.name}, version {packed.index.version}, {megabytes:,.0f} MB, {signed}")


def _evaluate(options: argparse.Namespace) -> None:
    from .demo.evaluate import evaluate, held_out_seeds, save_mistakes, table

    held_out_seeds(options.seed, options.pictures)  # refused before anything is loaded
    _check_outside(options.mistakes, options.bundle)
    if options.mistakes:
        options.mistakes.mkdir(parents=True, exist_ok=True)
    with _asked(options) as model:
        found = evaluate(model, options.pictures, options.seed)
    print(json.dumps(found.to_json(), indent=1) if options.json else table(found))
    if options.mistakes:
        step(f"{save_mistakes(found, options.mistakes)} pictures with mistakes: {options.mistakes}")


def _robustness(options: argparse.Namespace) -> None:
    from .demo.plots import check_plotter, plot_robustness
    from .demo.robustness import choose_scenes, disturb

    check_plotter()
    choose_scenes(options.pictures, options.seed)  # refused before anything is loaded
    _check_outside(options.output, options.bundle)
    options.output.mkdir(parents=True, exist_ok=True)
    with _asked(options) as model:
        found = disturb(model, options.pictures, options.seed)
    plot_robustness(found, options.output / "robustness.png")
    (options.output / "robustness.json").write_text(json.dumps(found.to_json(), indent=1) + "\n")
    print(f"{options.output}: robustness.png, robustness.json\n{found.notice}")


def _check_outside(folder: Path | None, bundle: Path | None) -> None:
    """Raises ExportError for results in a bundle, which would not be opened again."""
    if folder and folder.resolve() == (bundle or default_bundle()).resolve():
        raise ExportError(f"{folder}: is the bundle that is asked: name another folder for the results")


def _asked(options: argparse.Namespace) -> SkinGPT:
    """The model that is to be asked: a bundle, or the checkpoints it was made from in torch."""
    bundle = options.bundle or default_bundle()
    if not options.torch:
        return SkinGPT.open(bundle)
    from .demo.checkpoint import checkpoints_in
    from .torch_engines import open_original

    return open_original(checkpoints_in(options.torch), read_bundle(bundle))


def _demo_model(options: argparse.Namespace) -> None:
    from .demo.make_demo import make_demo_model

    manifest = make_demo_model(options.output, resume=options.resume)
    options.output /= "bundle"
    _tell(options, manifest)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="skingpt-export", description="Make bundles for skingpt, and judge them.")
    parser.set_defaults(kept="nothing was written")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")

    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "-o", "--output", type=Path, required=True, metavar="BUNDLE", help="folder to write the bundle to"
    )
    common.add_argument(
        "--vision",
        default=DEFAULT_VISION,
        choices=("auto", "f32", "f16", "int8", "int8-block"),
        help="precision of vision; auto: int8, or int8-block where int8 is too coarse (default: %(default)s)",
    )
    common.add_argument(
        "--llm-type",
        default=DEFAULT_LLM,
        metavar="TYPE",
        help="the language model's precision, by llama.cpp's name: f32, f16, q8_0, q4_k_m, … (default: %(default)s)",
    )
    common.add_argument("--name", metavar="NAME", help="name of the model, shown with every report")
    common.add_argument("--force", action="store_true", help="replace an existing bundle")
    common.add_argument("--json", action="store_true", help="print the result as JSON on standard output")

    bundle = _add(
        commands,
        "bundle",
        parents=[common],
        help="make a bundle from the original's checkpoints, and compare it with them",
    )
    bundle.add_argument(
        "--vit", type=Path, required=True, metavar="FILE", help="the vision encoder's checkpoint, eva_vit_g.pth"
    )
    bundle.add_argument(
        "--qformer",
        type=Path,
        required=True,
        metavar="FILE",
        help="the Q-Former's checkpoint, blip2_pretrained_flant5xxl.pth",
    )
    bundle.add_argument(
        "--adapter",
        type=Path,
        required=True,
        metavar="FILE",
        help="SkinGPT-4's own checkpoint; what is in it takes the place of what is in the others",
    )
    bundle.add_argument(
        "--llm", type=Path, required=True, metavar="DIR", help="folder of the Llama model, as from Hugging Face"
    )
    bundle.add_argument(
        "--template",
        default="skingpt4",
        metavar="NAME|FILE",
        help="how the prompt is written: a name, or a JSON file (default: %(default)s)",
    )
    bundle.add_argument(
        "--pictures", type=Path, metavar="DIR", help="folder of pictures to compare on (default: drawn samples)"
    )
    bundle.add_argument(
        "--calibrate",
        type=Path,
        metavar="DIR|FILE",
        help="quantise with regard to these: pictures, each with a .txt of the same name, whose paragraphs answer the "
        "report's questions; or the importance.gguf of an earlier bundle",
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

    synth = _add(
        commands, "synth", parents=[common], help="make a bundle of full size with random weights, for measuring"
    )
    synth.add_argument("--shape", required=True, choices=("tiny", "7b", "13b"), help="size of the model")
    synth.set_defaults(run=_synth)

    upgrade = _add(commands, "upgrade", help="rewrite bundle.json in the newest format, with a self-test")
    upgrade.add_argument("output", type=Path, metavar="BUNDLE", help="folder of the bundle; bundle.json is replaced")
    upgrade.add_argument("--json", action="store_true", help="print the result as JSON on standard output")
    upgrade.set_defaults(run=_upgrade, kept="bundle.json is as it was")

    engine = _add(commands, "engine", help="build TensorRT-RTX's plans of a bundle ahead of time, without a GPU")
    engine.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of the bundle")
    engine.add_argument(
        "--target", required=True, choices=TARGETS, help="compute capability of the GPU that they are for"
    )
    engine.set_defaults(run=_engine, kept="plans that were finished are kept")
    _add_package_commands(commands)
    _add_demo_commands(commands)
    return parser


def _add(commands: "Commands", name: str, *, help: str, **options: Any) -> argparse.ArgumentParser:
    return commands.add_parser(name, help=help, description=sentence(help), **options)


def _add_package_commands(commands: "Commands") -> None:
    keygen = _add(commands, "keygen", help="make a pair of keys to sign packages with, in minisign's format")
    keygen.add_argument("-o", "--output", type=Path, required=True, metavar="NAME", help="writes NAME.key and NAME.pub")
    keygen.add_argument(
        "--no-password", action="store_true", help="make a key without a password: whoever has NAME.key can then sign"
    )
    keygen.set_defaults(run=_keygen)

    pack = _add(commands, "pack", help="put a bundle into one signed file for `skingpt install`")
    pack.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of the bundle")
    pack.add_argument(
        "--key", type=Path, metavar="FILE", help="secret key of `keygen` or minisign (default: not signed)"
    )
    pack.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="file to write (default: NAME.skingpt in this folder)"
    )
    pack.add_argument(
        "--name", metavar="NAME",
        help="name to install it under: a-z, 0-9, dot, hyphen, underscore (default: the folder's)",
    )  # fmt: skip
    pack.add_argument(
        "--version",
        type=int,
        metavar="N",
        help="must grow with each package of this name (default: the time at which the bundle was made)",
    )
    pack.add_argument("--force", action="store_true", help="replace an existing file")
    pack.add_argument("--json", action="store_true", help="print the result as JSON on standard output")
    pack.set_defaults(run=_pack)


def _add_demo_commands(commands: "Commands") -> None:
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

    evaluate = _add(
        commands,
        "evaluate",
        parents=[asked],
        help="count what a demonstration bundle says right about held-out drawings",
    )
    evaluate.add_argument(
        "--pictures", type=int, default=500, metavar="N", help="how many drawings (default: %(default)s)"
    )
    evaluate.add_argument("--json", action="store_true", help="print the counts as JSON on standard output")
    evaluate.add_argument(
        "--mistakes", type=Path, metavar="DIR", help="folder to write the pictures to that it was wrong about"
    )
    evaluate.set_defaults(run=_evaluate)

    robustness = _add(
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

    demo = _add(
        commands,
        "demo-model",
        help="train the demonstration model from nothing, export and evaluate it (35 minutes on 2 cores)",
    )
    demo.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder for all that comes of it")
    demo.add_argument("--resume", action="store_true", help="go on after an interruption")
    demo.add_argument("--json", action="store_true", help="print the result as JSON on standard output")
    demo.set_defaults(run=_demo_model, kept="--resume goes on after the last finished step")


if __name__ == "__main__":
    sys.exit(main())
