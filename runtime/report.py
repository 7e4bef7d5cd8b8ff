"""The finished result: a picture's report, and its JSON form.

The JSON form is documented in `report.schema.json`; SCHEMA names its version.
"""

from dataclasses import asdict, dataclass
from typing import Any

from ..engines.base import EngineInfo
from .conversation import Answer
from .install.store import Installed
from .options import Options, Setup
from .sampling import GenerationConfig
from .vision import ImageEmbedding

SCHEMA = "skingpt-report/2"


@dataclass(frozen=True)
class Section:
    """One answer of the protocol under its heading."""

    title: str
    answer: Answer


@dataclass(frozen=True)
class Report:
    """What was found for one picture, how long it took and what computed it."""

    image: ImageEmbedding
    sections: tuple[Section, ...]
    config: GenerationConfig
    engines: dict[str, EngineInfo]
    """What ran each stage, as the engines themselves say."""
    requested: Options
    setup: Setup
    """What the options became on this machine."""
    bundle_name: str
    bundle_id: str
    notice: str
    load_seconds: float
    installed: Installed | None = None
    """Where the bundle comes from, if it was installed from a package."""

    @property
    def text(self) -> str:
        return "\n\n".join(f"{section.title}\n{section.answer.text}" for section in self.sections)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by stage, over all turns; `total` leaves out loading the bundle."""
        answers = [section.answer for section in self.sections]
        stages = dict(self.image.seconds)
        for kind in ("system", "image", "text"):
            stages[f"prefill_{kind}"] = sum(answer.prefill.seconds[kind] for answer in answers)
        stages["generate"] = sum(answer.decode_seconds for answer in answers)
        stages["total"] = sum(stages.values())
        stages["load"] = self.load_seconds
        return stages

    def to_json(self) -> dict[str, Any]:
        """The report as `report.schema.json` describes it."""
        return {
            "schema": SCHEMA,
            "image": self.image.to_json(),
            "turns": [turn_json(section) for section in self.sections],
            "timings_ms": {stage: round(value * 1000, 3) for stage, value in self.seconds.items()},
            "engines": {stage: info.to_json() for stage, info in self.engines.items()},
            "setup": {"requested": self.requested.to_json(), "resolved": self.setup.to_json()},
            "generation": {
                "max_new_tokens": self.config.max_new_tokens,
                "temperature": self.config.temperature,
                "top_p": self.config.top_p,
            },
            "seed": self.config.seed,
            "bundle": {"name": self.bundle_name, "id": self.bundle_id, "installed": _origin(self.installed)},
            "notice": self.notice,
        }


def _origin(installed: Installed | None) -> dict[str, Any] | None:
    if installed is None:
        return None
    signer = asdict(installed.signer) if installed.signer else None
    return {"name": installed.name, "version": installed.version, "signed_by": signer}


def turn_json(section: Section) -> dict[str, Any]:
    """One answer as `report.schema.json` describes it."""
    answer = section.answer
    return {
        "section": section.title,
        "question": answer.question,
        "text": answer.text,
        "token_ids": list(answer.token_ids),
        "finish_reason": answer.finish_reason,
        "prompt": answer.prompt,
        "prompt_tokens": {"evaluated": answer.prefill.evaluated, "reused": answer.prefill.reused},
        "dropped_turns": answer.dropped_turns,
        "first_token_ms": round(answer.first_token_seconds * 1000, 3),
        "decode_ms": round(answer.decode_seconds * 1000, 3),
    }


def error_json(name: str, message: str) -> dict[str, Any]:
    """What stands in a report's place for a picture that could not be used."""
    return {"schema": SCHEMA, "image": {"name": name}, "error": message}
