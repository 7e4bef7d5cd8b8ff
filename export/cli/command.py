"""What all commands of `skingpt-export` share."""

import argparse
import json
from dataclasses import asdict
from hashlib import sha256
from typing import Any, TypeAlias

from ...runtime.cli.arguments import sentence
from ...runtime.manifest import Manifest

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add(commands: Commands, name: str, *, help: str, **options: Any) -> argparse.ArgumentParser:
    return commands.add_parser(name, help=help, description=sentence(help), **options)


def tell(options: argparse.Namespace, manifest: Manifest) -> None:
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
