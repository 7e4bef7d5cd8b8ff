"""The number of trials in each suite, and the amount of work in each trial."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Numbers of trials, and of what is done in each."""

    trials: int
    """Warm trials of a stage; also of the report."""
    answer_tokens: int
    decode_steps: int
    """Tokens in a row, twice: in the process before the baseline and in the one after."""
    starts: int
    ceiling_trials: int
    thorough: bool
    """Search many shapes for the int8 peak."""
    scaling_trials: int
    turns: int
    turn_tokens: int
    """Length of an answer in a conversation of many turns."""
    question_lengths: tuple[int, ...]
    conversations: tuple[int, ...]
    memory_conversations: tuple[int, ...]
    """Each needs a process that loads the language model."""
    conversation_steps: int
    batches: tuple[int, ...]
    samples: int
    sample_trials: int
    profile_runs: int


SUITES = {
    "quick": Sizes(
        trials=5,
        answer_tokens=16,
        decode_steps=6,
        starts=2,
        ceiling_trials=3,
        thorough=False,
        scaling_trials=3,
        turns=10,
        turn_tokens=8,
        question_lengths=(16, 64, 256),
        conversations=(1, 2, 4, 8),
        memory_conversations=(1, 8),
        conversation_steps=8,
        batches=(1, 2, 4),
        samples=10,
        sample_trials=3,
        profile_runs=3,
    ),
    "full": Sizes(
        trials=5,
        answer_tokens=120,
        decode_steps=20,
        starts=5,
        ceiling_trials=7,
        thorough=True,
        scaling_trials=2,
        turns=10,
        turn_tokens=40,
        question_lengths=(32, 64, 128, 256, 512),
        conversations=(1, 2, 4, 8),
        memory_conversations=(1, 2, 4, 8),
        conversation_steps=20,
        batches=(1, 2, 4, 8),
        samples=10,
        sample_trials=2,
        profile_runs=10,
    ),
}
