"""Outputs replace nothing but an earlier output of the same command, and write nothing into a bundle."""

import shutil

import pytest
from skingpt_edge.runtime.bundle import default_bundle
from support import run

PICTURE = default_bundle().parent / "pictures" / "01-velora-light-skin.jpg"
OWN = {
    "page.html": "<!DOCTYPE html><title>mine</title>",
    "other.html": "<!doctype html>\n<html>mine",
    "notes.txt": "mine",
}


@pytest.mark.parametrize("name", OWN)
def test_a_page_replaces_no_file_of_the_users(name, tmp_path):
    (tmp_path / name).write_text(OWN[name])
    result = run("skingpt", "diagnose", PICTURE, "--html", tmp_path / name)
    assert result.returncode == 2
    assert "was not written by this command" in result.stderr
    assert (tmp_path / name).read_text() == OWN[name]


def test_a_page_and_a_trace_replace_their_own_earlier_output(tmp_path):
    for _ in range(2):
        result = run("skingpt", "diagnose", PICTURE, "--html", tmp_path / "page.html")
        assert result.returncode == 0, result.stderr
        result = run("skingpt", "trace", PICTURE, "-q", "What?", "-o", tmp_path / "trace")
        assert result.returncode == 0, result.stderr


def test_a_trace_replaces_no_file_of_the_users(tmp_path):
    (tmp_path / "trace.json").write_text('{"mine": 1}')
    result = run("skingpt", "trace", PICTURE, "-q", "What?", "-o", tmp_path)
    assert result.returncode == 2
    assert (tmp_path / "trace.json").read_text() == '{"mine": 1}'


def test_nothing_is_written_into_a_bundle(tmp_path):
    bundle = shutil.copytree(default_bundle(), tmp_path / "bundle")
    for command in (["diagnose", PICTURE, "--html", bundle / "page.html"], ["trace", PICTURE, "-q", "a", "-o", bundle]):
        result = run("skingpt", *command, "--bundle", bundle)
        assert result.returncode == 2
        assert "would lie in the bundle" in result.stderr
    result = run("skingpt-bench", "run", bundle, "-o", bundle / "llm.gguf")
    assert result.returncode == 2
    for command in (["robustness", bundle, "-o", bundle], ["evaluate", bundle, "--mistakes", bundle]):
        result = run("skingpt-export", *command)
        assert result.returncode == 4
        assert "is the bundle that is asked" in result.stderr
    assert len(list(bundle.iterdir())) == 6


def test_a_benchmark_replaces_no_file_of_the_users(tmp_path):
    picture = shutil.copy(PICTURE, tmp_path / "photo.jpg")
    result = run("skingpt-bench", "run", default_bundle(), "-o", picture)
    assert result.returncode == 2
    assert "was not written by this command" in result.stderr
    (tmp_path / "report.md").write_text("{}")
    result = run("skingpt-bench", "report", tmp_path / "report.md", "-o", tmp_path)
    assert result.returncode == 2
    assert "is an input and would be overwritten" in result.stderr
