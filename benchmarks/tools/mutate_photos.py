"""Damages photos at random and counts what the runtime makes of them.

python -m skingpt_edge.benchmarks.tools.mutate_photos [--count 2000] [--seed N] PHOTOS…

Each photo is decoded in a child process with a limit of memory and of time. Prints a Markdown table: how many of the
damaged files were refused, and of the others, how many differ visibly: by more than 2 of 255 on average at the model's
224 × 224. The exit code is 1 after a crash, a hang or an error that is not ImageError.
"""

import argparse
import json
import resource
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from ...engines.base import Array
from ...engines.errors import ImageError
from ...runtime.image import decode_image

MODULE = f"{__package__}.mutate_photos"
VISIBLE = 2.0  # of 255
SIDE = 224
MEMORY = 2_000_000_000  # bytes of address space
SECONDS = 60  # for a child's share
SHARE = 50  # files a child decodes


def _flip(data: bytearray, random: np.random.Generator) -> None:
    for _ in range(int(random.integers(1, 9))):
        data[int(random.integers(len(data)))] ^= 1 << int(random.integers(8))


def _overwrite(data: bytearray, random: np.random.Generator) -> None:
    at, length = int(random.integers(len(data))), int(random.integers(1, 200))
    data[at : at + length] = bytes(len(data[at : at + length])) if random.random() < 0.5 else random.bytes(length)


def _cut(data: bytearray, random: np.random.Generator) -> None:
    del data[int(random.integers(1, len(data))) :]


def _cut_and_end(data: bytearray, random: np.random.Generator) -> None:
    end = bytes(data[-12:] if data.startswith(b"\x89PNG") else data[-2:])
    _cut(data, random)
    data += end


def _splice(data: bytearray, random: np.random.Generator) -> None:
    """A piece is left out, or comes twice."""
    first, second = (int(at) for at in sorted(random.integers(0, len(data), 2)))
    second = min(second, first + 2000)
    data[first:second] = b"" if random.random() < 0.5 else data[first:second] * 2


MUTATIONS = {
    "flipped": _flip,
    "overwritten": _overwrite,
    "cut": _cut,
    "cut, end kept": _cut_and_end,
    "spliced": _splice,
}


def mutated(data: bytes, how: str, seed: int) -> bytes:
    """The file with one kind of damage; the same seed gives the same file."""
    changed = bytearray(data)
    MUTATIONS[how](changed, np.random.default_rng(seed))
    return bytes(changed)


def small(image: Image.Image) -> Array:
    """Levels (SIDE, SIDE, 3), as int."""
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)).astype(int)


def outcome(original: bytes, changed: bytes) -> str:
    """`refused`, `same` or `differs`. Raises whatever is not ImageError."""
    try:
        found = small(decode_image(changed, "photo"))
    except ImageError as error:
        assert str(error).startswith("photo: ") and "\n" not in str(error)
        return "refused"
    difference = np.abs(found - small(decode_image(original, "photo"))).mean()
    return "differs" if difference > VISIBLE else "same"


def plan(photos: list[Path], count: int, seed: int) -> list[tuple[Path, str, int]]:
    """Which photo is damaged in which way with which seed."""
    ways = list(MUTATIONS)
    return [(photos[i % len(photos)], ways[i // len(photos) % len(ways)], seed * 1_000_000 + i) for i in range(count)]


def run_share(share: list[tuple[Path, str, int]]) -> list[str]:
    """The outcomes of some files, decoded in a child. Raises RuntimeError if it dies, hangs or raises."""
    request = json.dumps([(str(path), how, seed) for path, how, seed in share])
    command = [sys.executable, "-m", MODULE, "--child"]
    result = subprocess.run(command, input=request, capture_output=True, text=True, timeout=SECONDS, check=False)
    if result.returncode:
        raise RuntimeError(f"exit code {result.returncode} on one of {request}: {result.stderr[-2000:]}")
    found: list[str] = json.loads(result.stdout)
    return found


def child() -> int:
    """Decode what standard input lists, within the limits."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    outcomes = []
    for path, how, seed in json.load(sys.stdin):
        data = Path(path).read_bytes()
        outcomes.append(outcome(data, mutated(data, how, seed)))
    json.dump(outcomes, sys.stdout)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="*", type=Path)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        return child()
    if not given.photos:
        parser.error("which photos?")
    work = plan(given.photos, given.count, given.seed)
    counts: Counter[tuple[str, str, str]] = Counter()
    failed = 0
    for begin in range(0, len(work), SHARE):
        share = work[begin : begin + SHARE]
        try:
            outcomes = run_share(share)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            print(error, file=sys.stderr)
            failed += 1
            continue
        for (path, how, _), found in zip(share, outcomes, strict=True):
            counts[path.name, how, found] += 1
    print("| photo | damage | refused | the same to the eye | differs |\n| --- | --- | ---: | ---: | ---: |")
    for name, how in sorted({key[:2] for key in counts}):
        print(
            f"| {name} | {how} | "
            + " | ".join(str(counts[name, how, o]) for o in ("refused", "same", "differs"))
            + " |"
        )
    total = Counter({o: sum(n for key, n in counts.items() if key[2] == o) for o in ("refused", "same", "differs")})
    print(f"| all | | {total['refused']} | {total['same']} | {total['differs']} |")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
