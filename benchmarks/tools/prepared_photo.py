"""How much sooner the first answer begins if the photo was seen while the question was being thought of.

`python -m skingpt_edge.benchmarks.tools.prepared_photo BUNDLE [--repeat 5] [-o FILE]`

Photos take turns: one is sent with its question, the next one before it. So both are measured in the same minutes.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from ...engines.errors import SkinGPTError
from ...runtime.options import Options
from ...runtime.skingpt import SkinGPT
from ..measure.fixed_inputs import exactly, photo


def measure(model: SkinGPT, repeat: int) -> dict[str, Any]:
    """Seconds from the question to the first token: sent `with` the photo, or after it was `encoded`, or `prepared`."""
    question = model.bundle.manifest.questions[0].question
    model.ask(model.embed(photo(0)), question, exactly(1))  # the text before the picture is computed once
    found: dict[str, list[float]] = {"with": [], "encoded": [], "prepared": []}
    for number in range(3 * repeat):
        data, kind = photo(number + 1), list(found)[number % 3]
        begun = time.perf_counter()
        conversation = model.conversation(model.embed(data))
        if kind == "prepared":
            conversation.prepare()
        if kind != "with":
            begun = time.perf_counter()
        conversation.ask(question, exactly(1))
        found[kind].append(time.perf_counter() - begun)
    seconds = {kind: median(times) for kind, times in found.items()}
    ratios = {kind: seconds[kind] / seconds["with"] for kind in ("encoded", "prepared")}
    return {"median_seconds": seconds, "of_the_time_with_the_photo": ratios, "seconds": found}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    try:
        with SkinGPT.open(given.bundle, options=Options()) as model:
            bundle = {"name": model.bundle.manifest.name, "id": model.bundle.id}
            found = {"bundle": bundle, **measure(model, given.repeat)}
    except SkinGPTError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    text = json.dumps(found, indent=1)
    print(text)
    if given.output:
        given.output.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
