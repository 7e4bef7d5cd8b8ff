"""Hard drawings, the questions about them, and the tables that tell precisions apart."""

from dataclasses import replace

import numpy as np
import pytest
from skingpt_edge.export.demo.accuracy_tables import by_condition, by_precision, difference, smallest_difference
from skingpt_edge.export.demo.answers import PROTOCOL, TOPICS, absent, answer, conversation
from skingpt_edge.export.demo.comparison_set import write_calibration_set
from skingpt_edge.export.demo.conditions import (
    CONDITIONS,
    EASY_CONDITIONS,
    FOUR,
    LAYOUTS,
    NEIGHBOURS,
    TWO,
    VALUES,
    draw_findings,
)
from skingpt_edge.export.demo.contact_sheet import COLUMNS, contact_sheet
from skingpt_edge.export.demo.draw import FRAME, HARD_RADIUS, NUMBER, SHOWN, Canvas, draw
from skingpt_edge.export.demo.evaluate import Evaluation, evaluate
from skingpt_edge.export.demo.follow_ups import BACK, WHETHER, follow_ups
from skingpt_edge.export.demo.make_demo import SEEN_SEEDS
from skingpt_edge.export.demo.places import place
from skingpt_edge.export.demo.scenes import EASY_SHARE, Clutter, random_scene, training_scene
from skingpt_edge.export.demo.score import Case, score, stated
from skingpt_edge.runtime.skingpt import SkinGPT


@pytest.fixture(scope="module")
def scenes():
    return [random_scene(seed, kind="hard") for seed in range(1500)]


def test_hard_drawings_show_every_value_condition_layout_and_kind_of_clutter(scenes):
    for name, values in VALUES.items():
        assert {getattr(scene.findings, name) for scene in scenes} == set(values)
    assert {scene.findings.condition for scene in scenes} == {condition.name for condition in CONDITIONS}
    shown = {(scene.findings.count, scene.findings.size, scene.findings.arrangement) for scene in scenes}
    assert shown == {*LAYOUTS, *TWO, *FOUR}
    for name in ("ruler", "ink", "cloth", "cut"):
        assert {getattr(scene.clutter, name) for scene in scenes} == {False, True}


def test_a_neighbour_differs_in_the_border_alone():
    by_name = {condition.name: condition for condition in CONDITIONS}
    assert len(CONDITIONS) == len(EASY_CONDITIONS) + len(NEIGHBOURS) == 20
    for name, (other, border, *_) in NEIGHBOURS.items():
        first, second = by_name[name], by_name[other]
        same = ("kind", "surface", "colours", "layouts")
        assert all(getattr(first, what) == getattr(second, what) for what in same)
        assert border not in first.borders and second.borders == (border,)
    looks = {(c.kind, c.surface, colour, border) for c in CONDITIONS for colour in c.colours for border in c.borders}
    assert len(looks) == sum(len(c.colours) * len(c.borders) for c in CONDITIONS)  # no two look alike


def test_of_every_lesion_enough_can_be_seen(scenes):
    for scene in scenes[:80]:
        canvas = Canvas(np.random.default_rng((scene.seed, 2)), FRAME)
        canvas.draw_skin(scene.tone)
        canvas.draw_lesions(scene.findings, scene.tone, scene.clutter)
        canvas.draw_hairs(scene.hairs)
        assert len(canvas.centres) == NUMBER[scene.findings.count]
        assert HARD_RADIUS[scene.findings.size][0] <= canvas.radius <= HARD_RADIUS[scene.findings.size][1]
        before = canvas.hidden.copy()
        canvas.draw_clutter(scene.clutter, scene.tone)
        for centre in canvas.centres:
            in_the_frame = canvas._shown(centre, before)
            assert canvas._shown(centre, canvas.hidden) >= min(SHOWN, in_the_frame) - 1e-6


def test_what_is_covered_is_not_labelled_as_lesion(scenes):
    def covered(scene, cloth: bool) -> float:
        return draw(replace(scene, clutter=Clutter(cut=True, cloth=cloth))).coverage.sum()

    pairs = [(covered(scene, True), covered(scene, False)) for scene in scenes[:40]]
    assert all(with_cloth <= without for with_cloth, without in pairs)
    assert any(with_cloth < 0.95 * without for with_cloth, without in pairs)


def test_lesions_are_side_by_side_or_far_from_each_other():
    random = np.random.default_rng(0)
    for count in (2, 3, 4, 6):
        for arrangement, low, high in (("grouped", 2.1, 2.4), ("scattered", 3.2, 99)):
            points = np.array(place(random, FRAME, count, 12.0, 12.0, arrangement))
            apart = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1)) + 1e9 * np.eye(count)
            assert low <= apart.min() / 12.0 <= high, (count, arrangement)
            assert points.min() >= 12 - 1e-9 and points.max() <= FRAME - 12 + 1e-9


def test_easy_drawings_have_no_clutter_and_training_sees_both_kinds():
    assert random_scene(3).clutter is None
    kinds = [training_scene(seed).clutter is None for seed in range(5 * EASY_SHARE)]
    assert sum(kinds) == 5
    assert training_scene(4, no_skin=1.0).findings is None


def test_a_hard_scene_is_the_same_picture_at_any_size():
    scene = next(s for seed in range(100) if (s := random_scene(seed, kind="hard")).clutter.ruler and s.clutter.cloth)
    small, large = draw(scene), draw(scene, 448)
    assert small.image.tobytes() == draw(scene).image.tobytes()
    assert small.centres == large.centres
    shrunk = np.asarray(large.image.resize((224, 224)), float)
    assert np.abs(shrunk - np.asarray(small.image, float)).mean() < 10


def test_clutter_changes_the_picture_and_less_contrast_brings_lesion_and_skin_together():
    scene = replace(random_scene(8, kind="hard"), clutter=Clutter(), blur=0.0, noise=0.0, hairs=0)
    scene = replace(scene, findings=replace(scene.findings, count="one", size="large", arrangement="alone"))
    plain = np.asarray(draw(scene).image, float)
    for change in ({"moles": 5}, {"ruler": True}, {"ink": True}, {"cloth": True}, {"lamp": 0.1}, {"shadow": 0.3}):
        other = np.asarray(draw(replace(scene, clutter=Clutter(**change))).image, float)
        assert np.abs(other - plain).mean() > 0.01, change
    faint = draw(replace(scene, clutter=Clutter(contrast=0.3)))
    inside = np.kron(faint.coverage > 0.99, np.ones((14, 14))) > 0
    outside = np.kron(faint.coverage == 0, np.ones((14, 14))) > 0
    apart = [np.abs(p[inside].mean(0) - p[outside].mean(0)).sum() for p in (plain, np.asarray(faint.image, float))]
    assert apart[1] < 0.75 * apart[0]


def test_what_is_said_and_denied_is_wrong():
    truth = replace(draw_findings(np.random.default_rng(0)), surface="scale")
    assert stated(f"The surface is covered with scale. {absent(truth)}")["surface"] == "scale"
    assert stated("The surface is covered with scale. There is no scale and no crust.")["surface"] is None
    assert stated("They are small, about 5 mm wide.")["size"] == "small"
    assert stated("They are small, about 20 mm wide.")["size"] is None
    assert stated("They are 15 mm wide.")["size"] is None


def test_the_right_answers_to_follow_ups_count_as_right_and_others_do_not():
    random = np.random.default_rng(3)
    topics = {question: i for i, (questions, *_) in enumerate(TOPICS) for question in questions}
    seen = set()
    for _ in range(200):
        truth = draw_findings(random, hard=True)
        for one in (*WHETHER, *BACK):
            text = answer(topics[one.question], truth, random)
            assert one.is_right(truth, text), (one.question, text)
            assert not one.is_right(truth, "")
            seen.add(text)
    assert {"Yes, there is scale.", "No, there are no fissures."} <= seen
    asked = [one.question for number in range(9) for one in follow_ups(number)]
    assert {asked.count(one.question) for one in (*WHETHER, *BACK)} == {3}


def test_conversations_go_on_after_the_protocol():
    random = np.random.default_rng(0)
    talks = [conversation(draw_findings(random, hard=True), random) for _ in range(300)]
    protocol = [TOPICS[i][0][0] for i in range(PROTOCOL)]
    begun = [talk for talk in talks if [question for question, _ in talk[:PROTOCOL]] == protocol]
    assert 0.5 < len(begun) / len(talks) < 0.7
    assert 0.35 < sum(len(talk) > PROTOCOL for talk in begun) / len(begun) < 0.65


@pytest.fixture(scope="module")
def asked() -> Evaluation:
    with SkinGPT.open() as model:
        return evaluate(model, 60, seed=7)


def test_the_shipped_bundle_is_good_and_not_perfect_on_hard_drawings(asked):
    found = score(asked.cases)
    assert 0.85 <= found["attributes"].part < 1
    assert found["follow-ups"].of == 120
    assert found["follow-ups"].part >= 0.8
    document = asked.to_json()
    assert sum(document["attributes_right_by_picture"]) == found["attributes"].right
    assert sum(group["condition"]["of"] for group in document["by_condition"].values()) == 60


def worse(found: Evaluation, pictures: int) -> Evaluation:
    """The same, with nothing said about the first of them."""
    silent = [replace(case, text="", followed=(False, False)) for case in found.cases[:pictures]]
    return replace(found, cases=(*silent, *found.cases[pictures:]))


def test_a_difference_is_told_from_chance_by_pictures(asked):
    same, lost = asked.to_json(), worse(asked, 10).to_json()
    assert difference(same, same) == (0.0, 0.0, 0.0) and not difference(same, same).is_told
    found = difference(lost, same)
    expected = score(worse(asked, 10).cases)["attributes"].part - score(asked.cases)["attributes"].part
    assert found.part == pytest.approx(expected)
    assert found.low < found.part < found.high < 0 and found.is_told
    few = worse(asked, 1).to_json()
    little = difference(few, same)
    assert not little.is_told  # one picture of 60 may be chance
    rows = {"first": same, "second": few, "third": lost}
    assert -little.part <= smallest_difference(rows) < -found.part
    assert smallest_difference({"first": same, "third": lost}) == 0
    assert "points (" in by_precision(rows) and "*" in by_precision(rows).splitlines()[-1]
    assert len(by_condition(rows).splitlines()) == 2 + len(same["by_condition"])


def test_the_calibration_set_holds_what_was_trained_on_and_true_answers(tmp_path):
    write_calibration_set(tmp_path, 5)
    expected = [f"00{i}.{kind}" for i in range(5) for kind in ("png", "txt")]
    assert sorted(path.name for path in tmp_path.iterdir()) == expected
    for number in range(5):
        scene = training_scene(SEEN_SEEDS + number)
        assert stated((tmp_path / f"00{number}.txt").read_text()) == vars(scene.findings)
        assert (tmp_path / f"00{number}.txt").read_text().count("\n\n") == PROTOCOL - 1


def test_nothing_said_scores_nothing():
    truth = draw_findings(np.random.default_rng(0), hard=True)
    found = score([Case("dark", truth, "", (False, True))])
    assert found["attributes"].right == 0
    assert (found["follow-ups"].right, found["follow-ups"].of) == (1, 2)
    assert "follow-ups" not in score([Case("dark", truth, "")])


def test_the_contact_sheet_shows_every_condition():
    sheet = contact_sheet()
    assert sheet.width > COLUMNS * FRAME
    assert sheet.height > len(CONDITIONS) / COLUMNS * FRAME
