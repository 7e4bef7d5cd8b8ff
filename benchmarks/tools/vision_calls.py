"""How long a picture takes in the vision encoder and the Q-Former, by engine, with nothing else between the pictures.

`python -m skingpt_edge.benchmarks.tools.vision_calls BUNDLE [--device cuda] [--engine NAME]... [--repeat 30] [-o FILE]`

Without `--engine` it tries every engine that has the device. One that cannot be opened is named with the reason. The
embeddings of each are compared with those of the first. Opening includes compiling, where an engine compiles.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from ...engines.base import Floats
from ...engines.errors import SkinGPTError
from ...engines.registry import GRAPH_ENGINES, devices
from ...runtime.bundle import Bundle
from ...runtime.check_picture import cosine
from ...runtime.loading import load_vision
from ...runtime.options import Options
from ...runtime.resolving import vision_setup
from ...runtime.verification import open_bundle
from ...runtime.vision import VisionModel


def measure(bundle: Bundle, device: str, engines: list[str], repeat: int) -> dict[str, Any]:
    """What `time_engine` finds of each engine, or `{"error": its sentence}`; and how alike their embeddings are."""
    size = bundle.manifest.image.size
    pixels = np.random.default_rng(0).standard_normal((1, 3, size, size), np.float32)
    found: dict[str, Any] = {}
    embeddings: dict[str, Floats] = {}
    for name in engines:
        print(f"{name} …", file=sys.stderr, flush=True)
        try:
            found[name], embeddings[name] = time_engine(bundle, device, name, pixels, repeat)
        except SkinGPTError as error:
            found[name] = {"error": str(error)}
            continue
        first = next(iter(embeddings))
        found[name]["cosine"] = {"with": first, "value": cosine(embeddings[first], embeddings[name])}
    return {"schema": "skingpt-vision-calls/1", "device": device, "repeat": repeat, "engines": found}


def time_engine(bundle: Bundle, device: str, name: str, pixels: Floats, repeat: int) -> tuple[dict[str, Any], Floats]:
    """Milliseconds by graph, with the embeddings (queries × n_embd,) of the picture.

    Raises SkinGPTError for an engine that cannot be used.
    """
    begun = time.perf_counter()
    vision = load_vision(bundle, vision_setup(Options(vision_device=device, vision_engine=name)))
    opened = time.perf_counter() - begun
    try:
        embeddings = vision.embed_pixels(pixels).image_embeds.ravel()
        times = [_milliseconds(vision, pixels) for _ in range(repeat + 1)]
        info = vision.info["vision_encoder"].to_json()
    finally:
        vision.close()
    found = {
        "info": info,
        "open_seconds": round(opened, 3),
        **{f"{part}_p50_ms": round(median(one[part] for one in times[1:]), 3) for part in times[0]},
    }
    return found, embeddings


def _milliseconds(vision: VisionModel, pixels: Floats) -> dict[str, float]:
    marks = [time.perf_counter()]
    vision.embed_pixels(pixels, marks)
    begun, encoded, ended = (1000 * mark for mark in marks)
    return {"encoder": encoded - begun, "qformer": ended - encoded, "both": ended - begun}


def main() -> int:
    parser = argparse.ArgumentParser(prog=f"python -m {__spec__.name}", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("--device", choices=devices(), default="cpu")
    parser.add_argument("--engine", action="append", choices=GRAPH_ENGINES, dest="engines")
    parser.add_argument("--repeat", type=int, default=30)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    if args.repeat < 1:
        parser.error(f"--repeat is {args.repeat}, expected 1 or more")
    able = [name for name, engine in GRAPH_ENGINES.items() if args.device in engine.devices]
    try:
        found = measure(open_bundle(args.bundle), args.device, args.engines or able, args.repeat)
    except SkinGPTError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    text = json.dumps(found, indent=1)
    print(text)
    if args.output:
        args.output.write_text(text + "\n")
    return 0 if any("error" not in engine for engine in found["engines"].values()) else 2


if __name__ == "__main__":
    sys.exit(main())
