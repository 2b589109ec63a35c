"""A bundle gives the same lists in another process, refuses any changed byte, and is readable part by part."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file
from sentence_transformers import SentenceTransformer
from transformers import AutoModelForSequenceClassification

from indexes import DamagedArtefact, Locked, list_versions, resolve, rollback
from retrieval.bundle_files import FORMAT_VERSION, check_bundle
from retrieval.recommend import Recommender
from retrieval.storage import read_settings, save_bundle
from retrieval.update import replace_catalogue
from tests.world import TOPICS, USERS_PER_TOPIC, user_id

USERS = [user_id(topic, number) for topic in TOPICS for number in range(USERS_PER_TOPIC)]
ELSEWHERE = """
import json, sys
from retrieval.recommend import Recommender
recommender = Recommender.load(sys.argv[1], device="cpu", precision="float32")
found = recommender.recommend_many(json.loads(sys.argv[2]), k=10)
print(json.dumps([found["item_id"].tolist(), [float(score).hex() for score in found["score"]]]))
"""


def copy_of(bundle: Path, place: Path) -> Path:
    """A version that a test may damage."""
    return Path(shutil.copytree(resolve(bundle), place / "version"))


def all_files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def test_another_process_gives_identical_lists(bundle, unpublished):
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(bundle), json.dumps(USERS)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    items, scores = json.loads(done.stdout.splitlines()[-1])
    here = unpublished.recommend_many(USERS, k=10)
    assert items == here["item_id"].tolist()
    np.testing.assert_allclose([float.fromhex(score) for score in scores], here["score"], atol=1e-6)


def test_everything_comes_back_as_it_was(recommender, unpublished):
    assert recommender.config == unpublished.config
    assert recommender.settings == unpublished.settings
    assert recommender.users == unpublished.users
    assert recommender.item_ids == unpublished.item_ids
    assert [h.tolist() for h in recommender.histories] == [h.tolist() for h in unpublished.histories]
    old, new = unpublished.model, recommender.model
    assert new.catalogue.texts == old.catalogue.texts
    assert new.catalogue.titles == old.catalogue.titles
    assert new.source_names == old.source_names
    assert new.depths == old.depths
    np.testing.assert_array_equal(new.recall_fusion.weights, old.recall_fusion.weights)
    np.testing.assert_array_equal(new.final_fusion.weights, old.final_fusion.weights)
    np.testing.assert_array_equal(new.trained_vectors, old.trained_vectors)
    assert new.learned_vectors is not None


def test_explanations_come_back_as_they_were(recommender, unpublished):
    one, other = (which.recommend("toy-fan-00", k=10, explain=True) for which in (recommender, unpublished))
    assert [item.reasons for item in one] == [item.reasons for item in other]


def test_a_bundle_without_a_reranker_comes_back_without_one(fitted, unpublished, tmp_path):
    plain = replace(unpublished, model=fitted.model_without_rerank)
    save_bundle(tmp_path / "bundle", plain)
    again = Recommender.load(tmp_path / "bundle", device="cpu")
    assert again.model.reranker is None
    assert again.recommend("toy-fan-00", k=10).items == plain.recommend("toy-fan-00", k=10).items


def test_where_seen_items_are_kept_they_still_are(fitted, interactions, items, encoder, tmp_path):
    from retrieval.fit import fit
    from tests.world import tiny_config

    config = tiny_config(keep_seen=True, use_reranker=False, head_training={"max_passes": 1})
    kept = fit(items, interactions, config, encoder=encoder)
    made = Recommender.of(kept.model, interactions, config, kept.settings)
    save_bundle(tmp_path / "bundle", made)
    again = Recommender.load(tmp_path / "bundle", device="cpu")
    assert "repeat" in again.model.source_names
    assert again.recommend("toy-fan-00", k=20).items == made.recommend("toy-fan-00", k=20).items


def test_users_without_any_history_survive(unpublished, tmp_path):
    nobody = replace(unpublished, histories=[h[:0] for h in unpublished.histories])
    save_bundle(tmp_path / "bundle", nobody)
    again = Recommender.load(tmp_path / "bundle", device="cpu")
    assert [len(history) for history in again.histories] == [0] * len(unpublished.users)


def test_the_check_tells_what_a_bundle_is(bundle, items, interactions):
    facts = check_bundle(bundle)
    assert facts["kind"] == "tandem-bundle"
    assert (facts["n_items"], facts["n_users"]) == (len(items), interactions.n_users)
    assert facts["n_interactions"] == len(interactions)
    assert facts["n_files"] == len(all_files(resolve(bundle))) - 1  # the manifest does not name itself
    assert set(facts["fusion_contributions"]) >= {"dense", "neighbours", "ease", "rerank"}


def test_a_flipped_byte_in_any_file_is_refused(bundle, tmp_path):
    version = copy_of(bundle, tmp_path)
    check_bundle(version)
    files = all_files(version)
    assert len(files) > 15
    for path in files:
        data = path.read_bytes()
        for place in sorted({0, len(data) // 2, len(data) - 1}):
            flipped = bytearray(data)
            flipped[place] ^= 1
            path.write_bytes(flipped)
            with pytest.raises((DamagedArtefact, FileNotFoundError), match=path.name.split(".")[0]):
                check_bundle(version)
        path.write_bytes(data)
    check_bundle(version)


@pytest.mark.parametrize("name", ["items.parquet", "reranker/model.safetensors", "config.json", "manifest.json"])
def test_a_damaged_bundle_is_not_served(bundle, tmp_path, name):
    version = copy_of(bundle, tmp_path)
    data = bytearray((version / name).read_bytes())
    data[len(data) // 3] ^= 4
    (version / name).write_bytes(data)
    with pytest.raises(DamagedArtefact, match=Path(name).name):
        Recommender.load(version, device="cpu")


@pytest.mark.parametrize("name", ["users.parquet", "encoder/modules.json"])
def test_a_missing_file_is_named(bundle, tmp_path, name):
    version = copy_of(bundle, tmp_path)
    (version / name).unlink()
    with pytest.raises(DamagedArtefact, match=Path(name).name):
        check_bundle(version)


def test_an_added_file_is_named(bundle, tmp_path):
    version = copy_of(bundle, tmp_path)
    (version / "encoder" / "extra.py").write_text("print('hello')")
    with pytest.raises(DamagedArtefact, match=r"extra\.py"):
        check_bundle(version)


def test_a_directory_without_a_bundle_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        Recommender.load(tmp_path)


def test_each_part_is_read_by_its_own_library(bundle, unpublished, items):
    version = resolve(bundle)
    catalogue = unpublished.model.catalogue
    text = catalogue.texts[0]
    encoder = SentenceTransformer(str(version / "encoder"), device="cpu")
    np.testing.assert_allclose(encoder.encode([text])[0], catalogue.text_vectors[0], atol=1e-5)
    classifier = AutoModelForSequenceClassification.from_pretrained(version / "reranker")
    assert classifier.config.model_type == "gpt2"
    assert classifier.config.num_labels == 1
    for part, dim in (("text", 16), ("items", 16)):
        index = faiss.read_index(str(version / "index" / part / "index.faiss"))
        assert (index.ntotal, index.d) == (len(items), dim)
    frame = pd.read_parquet(version / "items.parquet")
    assert frame["item_id"].tolist() == list(items.ids.ids)
    users = pd.read_parquet(version / "users.parquet")
    assert users["user_id"].tolist() == list(unpublished.users.ids)
    assert users["history"][3].tolist() == unpublished.histories[3].tolist()
    assert set(load_file(version / "vectors.safetensors")) == {"text", "items", "learned"}
    for name in ("config", "fusion", "sources", "settings"):
        json.loads((version / f"{name}.json").read_text())


def test_nothing_in_a_bundle_is_a_pickle(bundle):
    assert not [p for p in all_files(resolve(bundle)) if p.suffix in {".pkl", ".bin", ".pt", ".pth", ".npz"}]


def test_figures_of_an_evaluation_stand_in_the_manifest(unpublished, tmp_path):
    evaluation = {"stages": {"final": {"ndcg@10": 0.5}}}
    save_bundle(tmp_path / "bundle", unpublished, evaluation=evaluation)
    held_out = unpublished.model.final_fusion.figures["fused"]["held_out"]
    figures = check_bundle(tmp_path / "bundle")["figures"]
    assert figures == {"validation_ndcg@10": held_out, "ndcg@10": 0.5}
    assert json.loads((resolve(tmp_path / "bundle") / "evaluation.json").read_text()) == evaluation


def test_another_catalogue_keeps_the_evaluation_of_its_models(unpublished, items, tmp_path):
    evaluation = {"stages": {"final": {"ndcg@10": 0.5}}}
    first = save_bundle(tmp_path / "bundle", unpublished, evaluation=evaluation)
    second = save_bundle(tmp_path / "bundle", replace_catalogue(unpublished, items), based_on=first)
    assert check_bundle(second)["figures"] == check_bundle(first)["figures"]
    assert json.loads((second / "evaluation.json").read_text()) == evaluation


def test_what_was_published_meanwhile_is_not_undone(unpublished, tmp_path):
    root = tmp_path / "bundle"
    first = save_bundle(root, unpublished)
    second = save_bundle(root, unpublished, based_on=first)
    with pytest.raises(Locked, match="expected 000001 to be current, another version was published meanwhile; do it"):
        save_bundle(root, unpublished, based_on=first)
    assert resolve(root) == second
    assert list_versions(root) == [first, second]


def test_a_second_bundle_becomes_current_and_can_be_taken_back(unpublished, tmp_path):
    root = tmp_path / "bundle"
    first = save_bundle(root, unpublished)
    second = save_bundle(root, unpublished)
    assert resolve(root) == second
    assert len(list_versions(root)) == 2
    rollback(root)
    assert resolve(root) == first
    assert Recommender.load(root, device="cpu").facts["directory"] == str(first)


def test_a_bundle_that_fails_half_way_leaves_the_old_one_current(unpublished, tmp_path):
    root = tmp_path / "bundle"
    first = save_bundle(root, unpublished)
    broken = replace(unpublished, settings=None)
    with pytest.raises(TypeError):
        save_bundle(root, broken)
    assert resolve(root) == first
    check_bundle(root)


def test_an_encoder_other_than_the_one_of_the_index_is_refused(bundle, tmp_path):
    """Files intact, manifest written anew, but another model: the fingerprint tells."""
    from indexes import read_manifest, write_manifest
    from tests.tiny import tiny_sentence_transformer

    version = copy_of(bundle, tmp_path)
    facts = read_manifest(version).facts
    shutil.rmtree(version / "encoder")
    shutil.copytree(tiny_sentence_transformer(tmp_path / "other", dim=16, seed=9), version / "encoder")
    (version / "manifest.json").unlink()
    write_manifest(version, facts=facts)
    with pytest.raises(DamagedArtefact, match=r"encoder: .*fingerprint"):
        Recommender.load(version, device="cpu")


READERS = [lambda place: Recommender.load(place, device="cpu"), check_bundle, read_settings]


@pytest.mark.parametrize("read", READERS, ids=["load", "check", "settings"])
def test_a_bundle_of_another_format_says_what_to_do(bundle, tmp_path, read):
    from indexes import read_manifest, write_manifest

    version = copy_of(bundle, tmp_path)
    facts = {**read_manifest(version).facts, "format_version": 99}
    (version / "manifest.json").unlink()
    write_manifest(version, facts=facts)
    with pytest.raises(
        ValueError, match=f"expected a tandem bundle of format {FORMAT_VERSION}, got kind 'tandem-bundle' of format 99"
    ):
        read(version)


@pytest.mark.parametrize("read", READERS, ids=["load", "check", "settings"])
def test_a_part_of_a_bundle_is_no_bundle(bundle, read):
    with pytest.raises(ValueError, match=f"index/text: expected a tandem bundle of format {FORMAT_VERSION}, got kind"):
        read(resolve(bundle) / "index" / "text")
