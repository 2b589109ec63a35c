"""A bundle's indexes move between FAISS and Milvus in one command; the lists and the rest of the bundle stay."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from indexes import FAMILIES, DamagedArtefact, Locked, MilvusIndex, publish, read_manifest, resolve
from indexes.milvus_build import drop_collection, list_collections
from retrieval import move_index as module
from retrieval.bundle_files import check_bundle
from retrieval.cli import main
from retrieval.move_index import move_index
from retrieval.recommend import Recommender
from retrieval.storage import save_bundle
from retrieval.update import add_items
from tests.world import TOPICS, USERS_PER_TOPIC, user_id

USERS = [user_id(topic, number) for topic in TOPICS for number in range(USERS_PER_TOPIC)]

NOTHING = "nothing to delete: every collection is one of a version that is kept\n"


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A database of milvus-lite, closed at the end: it is a server in a thread of this process."""
    from milvus_lite.server_manager import server_manager_instance

    place = str(tmp_path_factory.mktemp("milvus") / "items.db")
    yield place
    server_manager_instance.release_server(place)


@pytest.fixture
def root(bundle: Path, tmp_path: Path) -> Path:
    """A copy of the bundle, with a name of its own."""
    return Path(shutil.copytree(bundle, tmp_path / f"shop-{tmp_path.name}"))


def test_the_help_names_every_family(capsys: pytest.CaptureFixture[str]) -> None:
    """It is written by hand there: to import the families would load FAISS before any command begins."""
    assert main(["index", "move", "--help"]) == 0
    told = set(re.findall(r"\w+", capsys.readouterr().out))
    assert {"milvus", "auto", *FAMILIES} <= told


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    """Runs a command line: exit code, stdout, stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def load(root: Path) -> Recommender:
    return Recommender.load(root, device="cpu", precision="float32")


def assert_same_lists(one: Recommender, other: Recommender) -> None:
    left, right = (which.recommend_many(USERS, k=10) for which in (one, other))
    assert left["item_id"].tolist() == right["item_id"].tolist()
    np.testing.assert_allclose(left["score"], right["score"], atol=1e-6)
    for call in (lambda r: r.search("a blue lamp", k=7), lambda r: r.similar("toy-03", k=7, filters="size > 2")):
        assert [item.item_id for item in call(one)] == [item.item_id for item in call(other)]


def test_to_milvus_and_back_the_lists_stay_the_same(run, root, recommender, uri):
    code, out, _ = run("index", "move", root, "--to", "milvus", "--uri", uri)
    assert code == 0
    assert out.startswith(str(resolve(root)))
    there = load(root)
    assert isinstance(there.model.catalogue.index, MilvusIndex)
    assert_same_lists(there, recommender)
    code, out, _ = run("index", "move", root, "--to", "exact", "--json", "-q")
    assert (code, json.loads(out)["indexes"]["text"]) == (0, {"family": "exact"})
    assert_same_lists(load(root), recommender)


def test_everything_but_the_indexes_is_copied_as_it_was(root, uri):
    before = read_manifest(resolve(root))
    moved = move_index(root, to="milvus", uri=uri)
    after = read_manifest(moved.version)

    def rest(manifest):
        return {name: file for name, file in manifest.files.items() if not name.startswith("index/")}

    assert rest(after) == rest(before)
    assert {**after.facts, "previous_version": None} == {**before.facts, "previous_version": None}
    assert after.facts["previous_version"] == resolve(root).parent.joinpath("000001").name


def test_the_bundle_names_the_collection_and_what_it_must_hold(root, uri, recommender):
    version = move_index(root, to="milvus", uri=uri).version
    own = read_manifest(version / "index" / "items").facts["index"]
    assert isinstance(own, dict)
    params = own["params"]
    assert isinstance(params, dict)
    assert (own["family"], own["n_items"]) == ("milvus", len(recommender.item_ids))
    assert set(params) == {"uri", "collection", "kind", "fingerprint"}
    assert params["uri"] == uri
    assert not list(version.rglob("*.faiss"))
    assert check_bundle(root)["kind"] == "tandem-bundle"


def test_a_family_of_faiss_is_kept_by_what_is_built_later(root):
    move_index(root, to="hnsw")
    moved = load(root)
    assert (moved.model.catalogue.index.family, moved.config.index.family) == ("hnsw", "hnsw")


def test_a_bundle_on_milvus_stays_there_when_its_items_change(root, uri):
    move_index(root, to="milvus", uri=uri)
    old = load(root)
    new = pd.DataFrame({"item_id": ["extra"], "title": ["big red robot"], "category": ["toy"]})
    save_bundle(root, add_items(old, new))
    again = load(root)
    index = again.model.catalogue.index
    assert isinstance(index, MilvusIndex)
    assert index.n_items == old.model.catalogue.n_items + 1
    assert again.search("big red robot", k=1)[0].item_id == "extra"


def test_a_collection_that_is_gone_is_exit_code_3_and_another_move_mends_it(run, root, uri):
    move_index(root, to="milvus", uri=uri)
    index = load(root).model.catalogue.index
    assert isinstance(index, MilvusIndex)
    drop_collection(uri, index.collection)
    code, _, err = run("check", root)
    assert (code, err.count("\n")) == (3, 1)
    assert "there is no such collection; move the index again (tandem index move), or roll back" in err
    move_index(root, to="milvus", uri=uri)
    check_bundle(root)


def test_collections_that_no_version_names_are_cleaned_away(run, root, uri):
    move_index(root, to="milvus", uri=uri, collection="cleaned")
    new = pd.DataFrame({"item_id": ["extra"], "title": ["big red robot"], "category": ["toy"]})
    save_bundle(root, add_items(load(root), new), keep=1)
    ours = [name for name in list_collections(uri) if name.startswith("cleaned_")]
    assert len(ours) == 4
    code, out, _ = run("index", "clean", root)
    assert (code, out.count("not used any more: cleaned_")) == (0, 2)
    code, out, _ = run("index", "clean", root, "--yes")
    assert (code, out.count("deleted: cleaned_")) == (0, 2)
    assert len([name for name in list_collections(uri) if name.startswith("cleaned_")]) == 2
    check_bundle(root)


def test_collections_at_a_place_that_no_version_names_any_more_are_cleaned_when_it_is_named(run, root, uri):
    move_index(root, to="milvus", uri=uri, collection="elsewhere")
    move_index(root, to="milvus", uri=uri)
    move_index(root, to="exact", keep=1)
    left = list_collections(uri)
    assert run("index", "clean", root) == (0, "", NOTHING)
    own = root.name.replace("-", "_") + "_"
    code, out, _ = run("index", "clean", root, "--uri", uri)
    assert (code, out.count("not used any more: "), out.count(f"not used any more: {own}")) == (0, 2, 2)
    assert list_collections(uri) == left
    code, out, _ = run("index", "clean", root, "--uri", uri, "--yes")
    assert (code, out.count(f"deleted: {own}")) == (0, 2)
    assert list_collections(uri) == [name for name in left if not name.startswith(own)]
    code, out, _ = run("index", "clean", root, "--uri", uri, "--collection", "elsewhere", "--yes")
    assert (code, out.count("deleted: elsewhere_")) == (0, 2)


def test_a_collection_that_a_kept_version_names_is_not_cleaned_away(run, root, uri):
    move_index(root, to="milvus", uri=uri)
    assert run("index", "clean", root, "--uri", uri, "--yes") == (0, "", NOTHING)
    check_bundle(root)


def test_a_database_that_is_gone_has_nothing_to_clean(run, root, tmp_path):
    from milvus_lite.server_manager import server_manager_instance

    place = tmp_path / "gone.db"
    move_index(root, to="milvus", uri=str(place))
    move_index(root, to="exact")
    server_manager_instance.release_server(str(place))
    shutil.rmtree(place)
    assert run("index", "clean", root) == (0, "", NOTHING)
    assert not place.exists()


def test_a_place_to_clean_must_be_there_and_named(run, root, tmp_path):
    code, _, err = run("index", "clean", root, "--uri", tmp_path / "nothing.db")
    assert (code, err.count("\n")) == (2, 1)
    assert "--uri: expected a milvus-lite database, found nothing at" in err
    assert not (tmp_path / "nothing.db").exists()
    code, _, err = run("index", "clean", root, "--collection", "shop")
    assert (code, err) == (2, "error: --collection: expected --uri with it, got 'shop' alone; say where it is\n")


def test_a_version_published_meanwhile_is_not_overwritten(root, monkeypatch):
    def build_while_somebody_publishes(*arguments, **options):
        if len(list((root / "versions").glob("0*"))) == 1:
            publish(root, lambda directory: (directory / "x").touch(), facts={})
        return build(*arguments, **options)

    build = module.build_index
    monkeypatch.setattr(module, "build_index", build_while_somebody_publishes)
    with pytest.raises(Locked, match="another version was published meanwhile; do it again"):
        move_index(root, to="exact")
    assert resolve(root).name == "000002"


def test_damaged_vectors_are_not_moved(root):
    file = resolve(root) / "vectors.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    with pytest.raises(DamagedArtefact, match=r"vectors.safetensors: expected sha256"):
        move_index(root, to="exact")
    assert resolve(root).name == "000001"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--to", "milvus"], 2, "--uri: expected with --to milvus, got none; give http://HOST:19530, or"),
        (
            ["--to", "exact", "--uri", "http://host:1"],
            2,
            "--uri: expected only with --to milvus, got 'http://host:1' with --to exact",
        ),
        (["--to", "exakt"], 2, "--to: expected one of milvus, auto, exact, ivf"),
        (["--to", "milvus", "--uri", "host"], 2, "uri: expected http://HOST:PORT"),
        (["--to", "milvus", "--uri", "x.db", "--kind", "ivf"], 2, "kind: expected 'auto', 'flat' or 'hnsw', got 'ivf'"),
        (["--to", "milvus", "--uri", "http://127.0.0.1:9"], 4, "Milvus at http://127.0.0.1:9: expected an answer"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_changes_nothing(run, root, arguments, code, message):
    found, out, err = run("index", "move", root, "-q", *arguments)
    assert (found, out, err.count("\n")) == (code, "", 1)
    assert message in err
    assert resolve(root).name == "000001"


def test_one_version_is_not_a_bundle_to_move(root):
    with pytest.raises(ValueError, match="expected the root of a bundle, got one version of it"):
        move_index(resolve(root), to="exact")


@pytest.mark.parametrize("verb", ["move", "clean"])
def test_the_help_shows_an_example(run, verb):
    code, out, _ = run("index", verb, "--help")
    assert code == 0
    assert f"tandem index {verb} bundle" in out
