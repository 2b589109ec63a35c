"""A fit sees nothing of what it is measured on, chooses on validation only, and gives the same twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pytest

from retrieval import fit_fusions, fit_lists, fit_reranker, fit_steps, source_choice, stage_one
from retrieval.data import Impressions, Interactions, leave_last_out
from retrieval.encoder.text_encoder import TextEncoder
from retrieval.evaluate import evaluate, make_split
from retrieval.fit import fit
from retrieval.held_out import hold_out
from retrieval.histories import histories_of, shown_of
from retrieval.sources import PopularSource, recent
from tests.world import (
    heard,
    interaction_frame,
    item_frame,
    item_id,
    make_interactions,
    make_items,
    tiny_config,
    user_id,
)

LATE = 1_700_000_000


@dataclass
class Seen:
    """What reached each trained part: item rows by the name of the part."""

    rows: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def add(self, part: str, *arrays: np.ndarray) -> None:
        self.rows.setdefault(part, []).extend(np.asarray(array, dtype=np.int64).ravel() for array in arrays)

    def of(self, part: str) -> set[int]:
        return set(np.concatenate(self.rows[part]).tolist())


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Looks over the shoulder of everything that is trained; the real functions run."""
    seen = Seen()

    def watch(module: object, name: str, look: Callable[..., None]) -> None:
        real = getattr(module, name)

        def watched(*args, **kwargs):
            look(*args, **kwargs)
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, watched)

    def head(histories, text_vectors, *, validation=None, **_):
        seen.add("head", *histories)
        if validation is not None:
            seen.add("head validation", *validation[0], validation[1])

    def history_model(make, histories, vectors, *, validation, **_):
        seen.add("history model", *histories)
        seen.add("history model validation", *validation[0], validation[1])

    def lists(made, *, validation, **_):
        for part, some in (("lists", made), ("stopping lists", validation)):
            for item in some._lists:
                seen.add(f"{part}: histories", item.history)
                seen.add(f"{part}: taken", item.rows[item.labels > 0])
                seen.add(f"{part}: candidates", item.rows)

    def fusion(parts, worlds):
        seen.add("fusion", *(taken for world in worlds for taken in world.validation.taken))

    watch(stage_one, "train_head", head)
    for module in (stage_one, source_choice):
        watch(module, "cosine_matrix", lambda histories, *_, **__: seen.add("neighbours", *histories))
        watch(module, "ease_matrix", lambda histories, *_, **__: seen.add("ease", *histories))
        watch(module, "walk_matrix", lambda histories, *_, **__: seen.add("walk", *histories))
        watch(module, "followers", lambda histories, *_, **__: seen.add("transitions", *histories))
    for module in (recent, source_choice):
        watch(module, "recent_counts", lambda by_time, *_, **__: seen.add("recent", by_time))
    for module in (fit_steps, fit_reranker):
        watch(module, "seasons_of", lambda taken, by_time, *_, **__: seen.add("seasons", *taken, by_time.items))
    watch(fit_reranker, "train_reranker", lists)
    watch(fit_reranker, "train_next_item", history_model)
    watch(fit_fusions, "_lists", fusion)
    real = PopularSource.fit.__func__  # type: ignore[attr-defined]

    def popular(cls, histories, n_items):
        seen.add("popular", *histories)
        return real(cls, histories, n_items)

    monkeypatch.setattr(PopularSource, "fit", classmethod(popular))
    return seen


@dataclass(frozen=True)
class Spied:
    """A world in which the last item of every user is theirs alone, so that wherever it turns up it leaked."""

    items: pd.DataFrame
    interactions: pd.DataFrame


@pytest.fixture(scope="module")
def spied() -> Spied:
    items, interactions = item_frame(), interaction_frame()
    users = sorted(set(interactions["user_id"]))
    last = pd.DataFrame({"item_id": [f"last-{user}" for user in users]})
    last = last.assign(title=[f"pack {n}" for n in range(len(users))], description="", category="last", brand="")
    last = last.assign(colour="none", size=0)
    taken = pd.DataFrame({"user_id": users, "item_id": list(last["item_id"]), "timestamp": LATE})
    return Spied(pd.concat([items, last], ignore_index=True), pd.concat([interactions, taken], ignore_index=True))


@pytest.mark.parametrize("split", ["leave-last-out", "time"])  # the last items of all come after one moment
def test_no_evaluated_target_reaches_anything_that_is_trained(split, spied, seen, encoder):
    items = make_items(spied.items)
    interactions = make_interactions(items, spied.interactions)
    targets = {int(row) for rows in make_split(interactions, split).targets for row in rows}
    assert len(targets) == interactions.n_users
    _, fitted = evaluate(items, interactions, tiny_config(), dataset="spied", split=split, encoder=encoder)
    for part in seen.rows:
        # As a candidate nobody took, an item of the catalogue may turn up anywhere; it is not told as a target.
        if not part.endswith("candidates"):
            assert not seen.of(part) & targets, part
    expected = {"head", "head validation", "neighbours", "ease", "transitions", "walk", "popular", "fusion"}
    expected |= {"lists: taken", "history model", "history model validation"}
    expected |= {"recent", "seasons"} if split == "time" else set()
    assert expected <= set(seen.rows)
    popular = next(source for source in fitted.model.sources if isinstance(source, PopularSource))
    np.testing.assert_allclose(popular.scores[sorted(targets)], 0, atol=1e-5)


@pytest.mark.parametrize("validation", ["last", "time"])
def test_validation_targets_reach_no_training_before_the_refit(validation, spied, seen, encoder):
    items = make_items(spied.items)
    interactions = make_interactions(items, spied.interactions)
    last = {int(history[-1]) for history in histories_of(interactions)}
    before = []

    def say(message: str) -> None:
        # A GPT-2 that serves learns from everything, as the refit does.
        if not before and ("(serving)" in message or message.startswith("fit head and sources again")):
            before.append({part: seen.of(part) for part in seen.rows})

    deep = {"per_source": len(items), "rerank": len(items)}  # nobody took these targets before: they are ranked low
    config = tiny_config(depths=deep, lists={"validation": validation})
    fit(items, interactions, config, encoder=encoder, say=say)
    (told,) = before
    learned = ["head", "neighbours", "ease", "transitions", "walk", "popular", "lists: histories", "lists: taken"]
    by_time = ["recent", "seasons"] if validation == "time" else []
    for part in (*learned, "history model", *by_time):
        assert not told[part] & last, part
    if validation == "last":
        assert told["fusion"] <= last  # what validation is for
    else:  # earlier moments ask for what was taken before
        assert told["fusion"] & last
        assert told["fusion"] - last <= told["ease"]
    assert told["head validation"] & last
    assert seen.of("ease") >= last  # and the refit learns from everything


def test_impressions_after_the_target_reach_no_list(seen, encoder):
    items = make_items()
    frame = interaction_frame()
    interactions = make_interactions(items, frame)
    new = int(items.ids.to_rows(["toy-new"])[0])
    early = int(items.ids.to_rows(["film-new"])[0])
    users = np.arange(interactions.n_users, dtype=np.int32)
    shown = Impressions.of(
        np.concatenate([users, users]),
        np.repeat(np.array([new, early], dtype=np.int32), len(users)),
        np.repeat([float(LATE), 0.0], len(users)),
    )
    with_shown = Interactions.of(
        interactions.users,
        interactions.items,
        interactions.user_rows,
        interactions.item_rows,
        interactions.times,
        negatives=shown,
    )
    shown_in_training = shown_of(leave_last_out(with_shown).train)
    assert shown_in_training is not None
    assert {int(row) for user in shown_in_training for row in user.rows} == {early}
    evaluate(items, with_shown, tiny_config(), dataset="shown", encoder=encoder)
    assert early in seen.of("lists: candidates")


def test_the_sources_behind_a_fold_never_saw_its_users(interactions, items, encoder, seen, fitted, config):
    """Each fold's head, neighbours and EASE are fitted on the other users only."""
    fit_lists.cross_fitted_lists(histories_of(interactions), None, fitted.model, fitted.settings, config)
    n_users = interactions.n_users
    for part in ("head", "ease", "transitions", "walk", "popular"):
        folds = [seen.rows[part][start : start + n_users] for start in range(0, len(seen.rows[part]), n_users)]
        assert len(folds) == config.lists.folds
        left_out = [[user for user in range(n_users) if not len(fold[user])] for fold in folds]
        assert sorted(user for users in left_out for user in users) == list(range(n_users))


def test_holding_out_takes_the_newest_item_of_everybody_who_has_two():
    histories = [np.array([1, 2, 3]), np.array([4]), np.array([], dtype=np.int64), np.array([5, 6])]
    base, validation = hold_out(histories, max_users=10, keep_seen=False, seed=0)
    assert [history.tolist() for history in base] == [[1, 2], [4], [], [5]]
    assert validation.targets.tolist() == [3, 6]
    assert [history.tolist() for history in validation.histories] == [[1, 2], [5]]
    assert [history.tolist() for history in histories] == [[1, 2, 3], [4], [], [5, 6]]


def test_holding_out_of_a_sample_leaves_the_others_whole():
    histories = [np.array([user, user + 1]) for user in range(20)]
    base, validation = hold_out(histories, max_users=5, keep_seen=False, seed=0)
    assert len(validation.targets) == 5
    assert sorted(len(history) for history in base) == [1] * 5 + [2] * 15


def test_nothing_to_hold_out_is_refused():
    with pytest.raises(ValueError, match="no user has 2 or more interactions"):
        hold_out([np.array([1])], max_users=5, keep_seen=False, seed=0)


def test_shown_items_are_told_by_user():
    items = make_items()
    interactions = make_interactions(items)
    assert shown_of(interactions) is None
    first, second, third = interactions.times[interactions.offsets[3] :][:3]
    # User 3 was shown item 9 before everything, at the time of the second interaction, and between second and third.
    users, rows, times = np.array([3, 1, 3, 3]), np.array([9, 8, 9, 9]), np.array([first - 1, first, second, third - 1])
    with_shown = interactions.take(np.arange(len(interactions)), negatives=Impressions.of(users, rows, times))
    by_user = shown_of(with_shown)
    assert by_user is not None
    assert [user.rows.tolist() for user in by_user[:5]] == [[], [8], [], [9, 9, 9], []]
    assert by_user[3].after.tolist() == [0, 1, 2]
    assert len(by_user) == interactions.n_users


def test_the_same_seed_fits_the_same_recommender(fitted, items, interactions, config, encoder):
    again = fit(items, interactions, config, encoder=encoder)
    model = heard(again.model)
    np.testing.assert_array_equal(model.final_fusion.weights, fitted.model.final_fusion.weights)
    assert again.settings == fitted.settings
    queries = fitted.model.catalogue.queries(histories_of(interactions))
    one, other = fitted.model.rank(queries), model.rank(queries)
    np.testing.assert_array_equal(one.rows, other.rows)
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-6)


def test_a_fit_tells_how_it_came_to_be(fitted, interactions):
    assert set(fitted.seconds) >= {"embed", "choose", "train_encoder", "build", "fusion", "lists", "train_reranker"}
    assert fitted.record["n_validation_users"] == interactions.n_users
    assert fitted.settings.head_passes > 0
    assert fitted.model_without_rerank.reranker is None
    assert fitted.model.reranker is not None


def test_the_reranker_has_learned_the_rule_of_the_ring(fitted):
    alone = fitted.record["final_fusion"]["alone"]
    assert alone["rerank_score"] > 0.8


def test_two_users_are_too_few_and_the_message_says_so(encoder):
    frame = interaction_frame()
    items = make_items()
    alone = make_interactions(items, frame.loc[frame["user_id"] == user_id("toy", 0), :])
    with pytest.raises(ValueError, match="expected 2 or more validation users with something they took"):
        fit(items, alone, tiny_config(), encoder=encoder)


def test_words_alone_can_be_reranked(items, interactions, encoder: TextEncoder):
    """Without soft tokens GPT-2 reads titles."""
    config = tiny_config(
        head_training={"max_passes": 2},
        lists={"max_lists": 24},
        rerank={"vector_dim": 0, "n_features": 0, "history_tokens": 48, "candidate_tokens": 12},
    )
    words = fit(items, interactions, config, encoder=encoder)
    assert words.model.reranker is not None
    found = words.model.rank(words.model.catalogue.queries(histories_of(interactions)[:1]))
    assert items.ids.ids[found.rows[0, 0]] == item_id("toy", 5)


def test_a_cascade_is_fitted_where_only_some_candidates_may_go_through_all_blocks(items, interactions, encoder):
    config = tiny_config(rerank={"n_layer": 2}, depths={"all_blocks": 8}, lists={"max_lists": 48})
    kept = fit(items, interactions, config, encoder=encoder).model.reranker
    assert kept is not None
    assert kept.cascade is not None
    assert (kept.cascade.n_blocks, kept.cascade.keep) == (1, 8)
