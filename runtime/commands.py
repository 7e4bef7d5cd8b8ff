"""What each command of `skingpt` does."""

import json
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ..engines.errors import InputError, SkinGPTError
from . import tuning
from .bundle import Bundle, check_hashes, check_language_model, default_bundle, open_bundle, read_bundle
from .consistency import compare, read_conditions
from .conversation import Conversation
from .fit import measure_fit
from .image import read_image_file, thumbnail
from .options import MAX_CONVERSATIONS, Options
from .page import Entry, write_page
from .report import Report, Section, error_json
from .sampling import GenerationConfig
from .skingpt import SkinGPT, open_vision
from .text import one_line, printable
from .threads import default_threads
from .trace import write_trace

SAMPLING_TEMPERATURE = 1.0  # the original's


def diagnose(options: Namespace) -> int:
    """A report for each picture; a picture that cannot be used does not keep the others from theirs."""
    conditions = read_conditions(options.conditions) if options.samples else ()
    with _open(options) as model:
        entries: list[Entry] = []
        code = 0
        try:
            for number, path in enumerate(options.images, 1):
                _progress(f"picture {number} of {len(options.images)}: {path.name}")
                try:
                    data = read_image_file(path)
                    if options.samples:
                        _samples(model, data, path.name, options, conditions)
                        continue
                    report = _report(model, data, path.name, options)
                except InputError as error:
                    code = error.exit_code
                    print(f"error: {one_line(str(error))}", file=sys.stderr)
                    if options.json:
                        print(json.dumps(error_json(path.name, str(error))), flush=True)
                    continue
                if options.html:
                    entries.append(Entry(thumbnail(data, path.name), report))
        finally:  # what is finished is kept, whatever stopped the rest
            if entries:
                write_page(options.html, entries)
                _progress(f"page: {options.html}")
    return code


def _report(model: SkinGPT, data: bytes, name: str, options: Namespace) -> Report:
    config = options.config(model.defaults)
    questions = options.questions or model.bundle.manifest.questions
    image = model.embed(data, name)
    current = -1
    for event in model.stream_report(image, questions, config):
        if isinstance(event, Report):
            report = event
        elif not options.json:
            section, piece = event
            while current < section:  # an answer may be empty
                current += 1
                gap = "\n\n" if current else "\n"
                print(f"{gap}{printable(questions[current].section)}\n", end="")
            print(printable(piece), end="", flush=True)
    if options.json:
        print(json.dumps(report.to_json()), flush=True)
    else:
        dropped = max(section.answer.dropped_turns for section in report.sections)
        if dropped:
            print(f"\n\n({dropped} earlier turns no longer fit into the context)", end="")
        print(f"\n\n{_timings(report)}\n{printable(report.notice)}\n", flush=True)
    return report


def _samples(model: SkinGPT, data: bytes, name: str, options: Namespace, conditions: tuple[str, ...]) -> None:
    """Several answers to one question, and how far they agree."""
    config = options.config(model.defaults)
    if config.temperature == 0:
        config = replace(config, temperature=SAMPLING_TEMPERATURE)
    image = model.embed(data, name)
    for item in options.questions or model.bundle.manifest.questions[:1]:
        begun = time.perf_counter()
        answers = model.samples(image, item.question, config, options.samples, together=not options.reproducible)
        found = compare(image, item.question, answers, conditions)
        if options.json:
            print(
                json.dumps({**found.to_json(), "seed": config.seed, "notice": model.bundle.manifest.notice}), flush=True
            )
            continue
        print(f"\n{printable(item.question)}\n")
        for number, (answer, condition) in enumerate(zip(found.answers, found.named, strict=True), 1):
            print(f"{number:>3}  [{condition or 'no condition named'}] {one_line(printable(answer.text))}")
        counts = ", ".join(f"{condition or 'none named'} {count}" for condition, count in found.counts)
        print(f"\n{found.agreement:.0%} of {len(answers)} answers name the same condition ({counts})")
        print(f"[{time.perf_counter() - begun:.2f} s, temperature {config.temperature:g}, seed {config.seed}]")
        print(f"{printable(model.bundle.manifest.notice)}\n", flush=True)


def chat(options: Namespace) -> int:
    """Questions about one picture, from the command line or typed in."""
    if options.json and not options.asked:
        print("error: --json needs the questions: -q QUESTION", file=sys.stderr)
        return 2
    data = read_image_file(options.image)
    with _open(options) as model:
        config = options.config(model.defaults)
        conversation = model.conversation(model.embed(data, options.image.name))
        for question in options.asked or _typed():
            if options.json:
                conversation.ask(question, config)
                continue
            if options.asked:
                print(f"> {one_line(question)}")
            try:
                _stream(conversation, question, config)
            except SkinGPTError as error:
                if options.asked:
                    raise
                print(f"error: {error}", file=sys.stderr)
        sections = [Section(f"Question {i}", answer) for i, answer in enumerate(conversation.answers, 1)]
        report = model.make_report(conversation.image, sections, config)
        if options.json:
            print(json.dumps(report.to_json()))
        elif sections:
            print(f"{_timings(report)}\n{printable(report.notice)}")
    return 0


def _stream(conversation: Conversation, question: str, config: GenerationConfig) -> None:
    for piece in conversation.stream(question, config):
        print(printable(piece), end="", flush=True)
    dropped = conversation.answers[-1].dropped_turns
    print(f"\n({dropped} earlier turns no longer fit into the context)\n" if dropped else "\n")


def _typed() -> Iterator[str]:
    """Lines typed at the prompt, until an empty one or the end of input."""
    print("Ask about the picture; an empty line ends.", file=sys.stderr)
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            return
        if not line:
            return
        yield line


def trace(options: Namespace) -> int:
    """Every stage of one run, as arrays and tokens."""
    data = read_image_file(options.image)
    with _open(options) as model:
        config = options.config(model.defaults)
        write_trace(model, data, options.image.name, options.asked, config, options.output)
        _progress(f"trace: {options.output}")
        _progress(model.bundle.manifest.notice)
    return 0


def info(options: Namespace) -> int:
    """What a bundle is and whether this machine can run it, without loading it."""
    bundle = read_bundle(options.bundle or default_bundle())
    manifest, tuned = bundle.manifest, tuning.recall(bundle)
    fit = measure_fit(bundle, tuned.speed if tuned else None)
    size = sum(entry.size for entry in manifest.files.values())
    facts: dict[str, Any] = {
        "name": manifest.name,
        "bundle": str(bundle.path),
        "id": bundle.id,
        "format": manifest.format,
        "size_bytes": size,
        "vision": manifest.vision.precision,
        "language_model": manifest.llm.type,
        "context": manifest.llm.context,
        "made_by": manifest.provenance.exporter,
        "parity": _parity(bundle),
        "engines": {name: _version(name) for name in ("onnxruntime", "llama-cpp-python")},
        "threads": default_threads(),
        "memory_needed_bytes": fit.needed,
        "memory_available_bytes": fit.available,
        "fits": fit.fits,
        "answer_seconds": round(fit.answer_seconds, 2),
        "here": fit.sentence(),
        "notice": manifest.notice,
    }
    if options.json:
        print(json.dumps(facts))
        return 0
    facts["size_bytes"] = f"{size:,}"
    for number in ("memory_needed_bytes", "memory_available_bytes", "fits", "answer_seconds"):
        del facts[number]  # the sentence has them
    facts["engines"] = ", ".join(f"{name} {found}" for name, found in facts["engines"].items())
    for name, fact in facts.items():
        print(f"{name.replace('_', ' '):<16}{one_line(str(fact))}")
    return 0


def _parity(bundle: Bundle) -> str:
    parity = bundle.manifest.parity
    if parity is None:
        return "none: synthetic, there is no original"
    figures = (
        f"image embeddings cosine {parity.stages['image_embeds'].cosine:.6f}, "
        f"{parity.llm.teacher_forced:.1%} of tokens as the original's, on {parity.pictures} pictures"
    )
    return figures if not parity.failures else f"{figures}; ACCEPTED BY HAND: {'; '.join(parity.failures)}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


AMX_WORDS = {None: "", True: "; weights laid out for AMX", False: "; weights not laid out for AMX"}


def tune(options: Namespace) -> int:
    """Measure what is fastest on this machine and remember it."""
    bundle = open_bundle(options.bundle or default_bundle(), progress=_hashing)
    found = tuning.tune(bundle, max_memory=options.max_memory, say=_progress)
    target = tuning.remember(bundle, found)
    if options.json:
        print(json.dumps({"bundle": bundle.id, **asdict(found), "file": str(target)}))
    else:
        print(
            f"fastest here: {found.vision_threads} threads for vision, {found.prefill_threads} for prompts, "
            f"{found.threads} for answers; KV cache {found.kv_type}{AMX_WORDS[found.amx]}\n"
            f"remembered in {target}; --no-tuning ignores it"
        )
    return 0


def verify(options: Namespace) -> int:
    """Check every byte of a bundle, and that its parts fit together by their own headers."""
    bundle = read_bundle(options.bundle or default_bundle())
    check_hashes(bundle, _hashing)
    check_language_model(bundle)
    open_vision(bundle).close()
    notice = bundle.manifest.notice
    if options.json:
        print(json.dumps({"bundle": str(bundle.path), "id": bundle.id, "ok": True, "notice": notice}))
    else:
        print(f"{bundle.path}: whole and unchanged, {len(bundle.manifest.files)} files, id {bundle.id[:16]}")
        print(printable(notice))
    return 0


def _open(options: Namespace) -> SkinGPT:
    samples = getattr(options, "samples", None) or 1
    cells = None
    if samples > 1:  # they share the prompt's cells, each answer needs its own
        manifest = read_bundle(options.bundle or default_bundle()).manifest
        answer = options.max_new_tokens or manifest.generation.max_new_tokens
        cells = (options.context or manifest.llm.context) + (samples - 1) * answer
    chosen = Options(
        device=options.device,
        vision_device=options.vision_device,
        gpu_layers=options.gpu_layers,
        threads=options.threads,
        context=options.context,
        conversations=min(samples, MAX_CONVERSATIONS),
        cells=cells,
        image_cache=0 if options.no_image_cache else Options.image_cache,
    )
    begun = time.perf_counter()
    bundle = open_bundle(options.bundle or default_bundle(), verify=options.verify, progress=_hashing)
    if not options.no_tuning and chosen.device == "cpu" and (found := tuning.recall(bundle)):
        chosen = found.apply(chosen)
    model = SkinGPT.from_bundle(bundle, chosen)
    model.load_seconds = time.perf_counter() - begun
    return model


def _hashing(name: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done == total else "\r"
        print(
            f"checking {name} {done / 1e6:,.0f} of {total / 1e6:,.0f} MB",
            end=end,
            file=sys.stderr,
            flush=True,
        )


def _progress(text: str) -> None:
    print(one_line(text), file=sys.stderr, flush=True)


def _timings(report: Report) -> str:
    """One line for a person: seconds by stage and tokens a second."""
    seconds = report.seconds
    tokens = sum(len(section.answer.token_ids) for section in report.sections)
    steps = tokens - len(report.sections)
    stages = [
        f"{stage.replace('_', ' ')} {value:.2f} s" for stage, value in seconds.items() if stage not in ("total", "load")
    ]
    speed = f"{steps / seconds['generate']:.1f} tokens/s, " if seconds["generate"] and steps else ""
    return f"[{' · '.join(stages)} · {speed}{tokens} tokens, {seconds['total']:.2f} s in all]"
