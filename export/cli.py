"""`skingpt-export`: make bundles.

Exit codes: 0 done, 2 usage, 3 a picture cannot be used, 4 checkpoints or bundle, 6 an engine failed.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

from ..engines.errors import ExportError, SkinGPTError
from ..runtime.manifest import Manifest

DEFAULT_VISION, DEFAULT_LLM = "int8", "q4_k_m"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        manifest = options.run(options)
    except SkinGPTError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    except OSError as error:
        print(f"error: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return ExportError.exit_code
    _tell(options, manifest)
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


def _bundle(options: argparse.Namespace) -> Manifest:
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
    )
    sources = Checkpoints(options.vit, options.qformer, options.adapter, options.llm)
    return export_bundle(sources, options.output, choices, pictures)


def _synth(options: argparse.Namespace) -> Manifest:
    from .make import Choices, synthesise_bundle

    name = options.name or f"synthetic-{options.shape}"
    choices = Choices(options.vision, options.llm_type.lower(), name, force=options.force)
    return synthesise_bundle(options.shape, options.output, choices)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="skingpt-export", description="Make bundles for skingpt.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("-o", "--output", type=Path, required=True, metavar="BUNDLE", help="directory to write")
    common.add_argument(
        "--vision",
        default=DEFAULT_VISION,
        choices=("f32", "f16", "int8", "int8-block"),
        help="precision of vision encoder and Q-Former (%(default)s)",
    )
    common.add_argument(
        "--llm-type",
        default=DEFAULT_LLM,
        metavar="TYPE",
        help="llama.cpp's name for the language model's precision: f32, f16, q8_0, q4_k_m, q4_0, … (%(default)s)",
    )
    common.add_argument("--name", help="the model's name, shown with every report")
    common.add_argument("--force", action="store_true", help="replace an existing bundle")
    common.add_argument("--json", action="store_true", help="print the result as JSON on standard output")

    bundle = commands.add_parser(
        "bundle", parents=[common], help="from the original's checkpoints, with proof of parity"
    )
    bundle.add_argument("--vit", type=Path, required=True, metavar="FILE", help="eva_vit_g.pth")
    bundle.add_argument("--qformer", type=Path, required=True, metavar="FILE", help="blip2_pretrained_flant5xxl.pth")
    bundle.add_argument("--adapter", type=Path, required=True, metavar="FILE", help="the SkinGPT-4 .pth; it wins")
    bundle.add_argument("--llm", type=Path, required=True, metavar="DIR", help="the Llama's Hugging Face folder")
    bundle.add_argument(
        "--template",
        default="skingpt4",
        metavar="NAME|FILE",
        help="prompt template (%(default)s, or a JSON file)",
    )
    bundle.add_argument("--pictures", type=Path, metavar="DIR", help="pictures to measure parity on (drawn samples)")
    bundle.add_argument(
        "--accept-parity",
        action="store_true",
        help="keep the bundle even if it misses a limit; it is recorded",
    )
    bundle.add_argument("--notice", metavar="TEXT", help="shown with every report (not a diagnosis, see a doctor)")
    bundle.set_defaults(run=_bundle)

    synth = commands.add_parser("synth", parents=[common], help="a full shape with random weights, for measuring")
    synth.add_argument("--shape", required=True, choices=("tiny", "7b", "13b"))
    synth.set_defaults(run=_synth)
    return parser


if __name__ == "__main__":
    sys.exit(main())
