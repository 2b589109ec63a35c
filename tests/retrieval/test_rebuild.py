"""How much of a bundle a rebuild may leave out."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from retrieval.data import IdMap
from retrieval.rebuild import KnownIds, require_kept


@pytest.mark.parametrize("n_gone", [1, 7, 28, 29, 57, 99])
def test_the_share_that_the_error_names_allows_the_table(n_gone):
    """.29 times 100, for one, is below 29."""
    ids = [f"i{row}" for row in range(100)]
    bundle: Any = SimpleNamespace(item_ids=IdMap.of(ids), users=IdMap.of([]))
    items: Any = SimpleNamespace(ids=IdMap.of(ids[n_gone:]))
    with pytest.raises(ValueError, match=f"but {n_gone} are not in it .such as 'i0'") as error:
        require_kept(bundle, items, None, max_removed=(n_gone - 1) / 100)
    named = re.search(r"--max-removed (\S+) if", str(error.value))
    assert named is not None
    require_kept(bundle, items, None, max_removed=float(named[1]))
    nobody: Any = SimpleNamespace(users=IdMap.of(["anna"]))
    require_kept(bundle, items, nobody, max_removed=float(named[1]))  # a bundle without users loses none


def test_whom_a_bundle_knows_is_told_without_loading_it(bundle, recommender):
    known = KnownIds.of(bundle)
    assert (known.item_ids, known.users) == (recommender.item_ids, recommender.users)
