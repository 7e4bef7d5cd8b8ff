"""What several tests use: the recorded data, the commands, pictures as bytes."""

import io
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from PIL import Image
from skingpt_edge.engines.base import LanguageModelSetup

ROOT = Path(__file__).parents[1]
DATA = ROOT / "tests" / "data"
GOLDEN = DATA / "golden"
CHECKPOINT = GOLDEN / "checkpoint"
FORMAT_1 = DATA / "bundle-format-1"
FORMAT_2 = DATA / "bundle-format-2.json"  # a manifest of the same files


def run(*command: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command of this environment as a user would."""
    program = Path(sys.executable).with_name(str(command[0]))
    return subprocess.run(
        [str(program), *map(str, command[1:])], capture_output=True, text=True, timeout=600, check=False, **options
    )


def export(target: Path, vision: str, llm_type: str, *extra: str | Path, checkpoint: Path = CHECKPOINT):
    """`skingpt-export bundle` on a checkpoint laid out like the golden one."""
    return run(
        "skingpt-export", "bundle",
        "--vit", checkpoint / "eva_vit_g.pth",
        "--qformer", checkpoint / "blip2_pretrained.pth",
        "--adapter", checkpoint / "skingpt4.pth",
        "--llm", checkpoint / "llm",
        "--vision", vision, "--llm-type", llm_type,
        "-o", target, *extra,
    )  # fmt: skip


def interruptible(*command: str | Path, **options: object) -> "subprocess.Popen[str]":
    """Start a command that SIGINT interrupts, even where the tests themselves run in the background.

    A shell's background processes ignore SIGINT and so do their children; one with a handler passes on none.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    program = Path(sys.executable).with_name(str(command[0]))
    return subprocess.Popen([str(program), *map(str, command[1:])], stderr=subprocess.PIPE, text=True, **options)


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    target = io.BytesIO()
    image.save(target, kind, **options)
    return target.getvalue()


def language_setup(**changes: object) -> LanguageModelSetup:
    """How tests open a language model by itself."""
    plain = LanguageModelSetup(
        engine="llama.cpp", device="cpu", gpu_layers=0, threads=1, prefill_threads=1, context=256, cells=256,
        sequences=2, batch=128, kv_type="f16", flash_attention=True, layout="repacked",
    )  # fmt: skip
    return replace(plain, **changes)
