"""A damaged or missing part of a bundle has one exit code and is named by its place; versions say how good they are."""

from __future__ import annotations

import json
import shutil

import pytest

from indexes import DamagedArtefact, publish, read_manifest, resolve
from retrieval import move_index as module
from retrieval.cli import main
from retrieval.move_index import move_index
from retrieval.recommend import Recommender
from retrieval.storage import save_bundle


@pytest.mark.parametrize(
    "arguments",
    [["recommend", "--user", "toy-fan-01"], ["check"], ["index", "move", "--to", "exact", "-q"]],
    ids=["recommend", "check", "move"],
)
@pytest.mark.parametrize("name", ["items.parquet", "vectors.safetensors", "config.json"])
def test_a_bundle_without_a_part_is_code_3(own_bundle, capsys, arguments, name):
    missing = resolve(own_bundle) / name
    missing.unlink()
    n_words = 2 if arguments[0] == "index" else 1
    assert main([*arguments[:n_words], str(own_bundle), *arguments[n_words:]]) == 3
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"error: {missing}: expected this file, it is missing; publish it again or roll back\n")
    assert resolve(own_bundle).name == "000001"


def test_without_verification_a_missing_part_is_damage_too(own_bundle):
    (resolve(own_bundle) / "items.parquet").unlink()
    with pytest.raises(DamagedArtefact, match=r"items.parquet: expected this file, it is missing"):
        Recommender.load(own_bundle, verify=False)


def test_a_part_that_the_manifest_does_not_know_is_missed(own_bundle, tmp_path, capsys):
    source = resolve(own_bundle)

    def all_but_items(directory):
        shutil.copytree(source, directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns("items.parquet"))
        (directory / "manifest.json").unlink()

    publish(tmp_path / "other", all_but_items, facts=read_manifest(source).facts)
    for verb in (["check"], ["recommend", "--user", "toy-fan-01"]):
        assert main([verb[0], str(tmp_path / "other"), *verb[1:]]) == 3
        assert "items.parquet: expected this file, it is missing" in capsys.readouterr().err


def test_damage_while_publishing_is_named_by_its_final_place(tmp_path):
    def fill_index(directory):
        (directory / "rows").write_text("1")

    def fill(directory):
        publish(directory / "index", fill_index, facts={})
        next((directory / "index").rglob("rows")).write_text("2")

    place = f"{tmp_path}/versions/000001/index/versions/000001/rows: expected sha256"
    with pytest.raises(DamagedArtefact, match=f"{place}.*; nothing was published; check the disk and publish again"):
        publish(tmp_path, fill, facts={}, keep=3)
    assert not list((tmp_path / "versions").iterdir())


def test_a_copy_that_differs_is_named_by_its_final_place(own_bundle, monkeypatch):
    def copy_badly(source, target):
        target.write_bytes(source.read_bytes()[:-1] + b"x")

    monkeypatch.setattr(module.shutil, "copyfile", copy_badly)
    with pytest.raises(DamagedArtefact, match=rf"{own_bundle}/versions/000002/\S+: expected sha256") as caught:
        move_index(own_bundle, to="exact")
    assert ".tmp" not in str(caught.value)
    assert resolve(own_bundle).name == "000001"


def test_a_source_that_is_damaged_is_named_itself(own_bundle):
    file = resolve(own_bundle) / "items.parquet"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(DamagedArtefact, match=rf"{file}: expected sha256"):
        move_index(own_bundle, to="exact")


def test_versions_tell_the_figures_of_every_version_also_of_a_moved_one(own_bundle, unpublished, capsys):
    save_bundle(own_bundle, unpublished, evaluation={"stages": {"final": {"ndcg@10": 0.25}}})
    move_index(own_bundle, to="exact")
    validation = unpublished.model.final_fusion.figures["fused"]["held_out"]
    assert main(["versions", str(own_bundle), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["versions"]
    assert [row["validation_ndcg@10"] for row in rows] == [validation] * 3
    assert [row["ndcg@10"] for row in rows] == [None, 0.25, 0.25]
    assert main(["versions", str(own_bundle)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == ["version", "items", "users", "validation", "ndcg@10", "test", "ndcg@10"]
    assert printed[3].split()[-2:] == [f"{validation:.4f}", "0.2500"]
