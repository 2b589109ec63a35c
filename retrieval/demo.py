"""The whole life of a recommender on MovieLens-100K, from the download to ten titles for a few users."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from retrieval.bundle_files import check_bundle
from retrieval.config import config_from
from retrieval.data import read_interactions, read_items
from retrieval.demo_data import fetch_movielens
from retrieval.evaluate import evaluate
from retrieval.fit import refit
from retrieval.recommend import Recommender
from retrieval.report import render_text, write_report
from retrieval.storage import save_bundle

# Films are liked in the way of their makers and times: the year belongs to the text, the genre words too.
_TEXT = {"item_template": "{title} ({year}). {category}. {description}"}
# Smaller than the defaults, so that the demo ends within minutes on two cores.
_SETTINGS = {
    "text": _TEXT,
    "head_training": {"learning_rate": 2e-3, "max_passes": 12.0},
    "lists": {"max_lists": 16_000},
}


def run_demo(out: Path, *, n_users: int, device: str, say: Callable[[str], None], progress: bool) -> None:
    """Fetch the data, evaluate, fit on everything, publish, verify, and print lists for some users.

    Raises:
        OSError: the data could not be fetched. ValueError: it is not what it should be.
    """
    out.mkdir(parents=True, exist_ok=True)
    say("fetch MovieLens-100K")
    data = fetch_movielens(out / "data", progress=say)
    say(f"data from {data.source}")
    items = read_items(data.items)
    interactions = read_interactions(data.interactions, items=items)
    config = config_from({**_SETTINGS, "device": device, "encoder": {"cache": str(out / "cache")}})
    result, fitted = evaluate(items, interactions, config, dataset="MovieLens-100K", say=say, progress=progress)
    (out / "evaluation.json").write_text(json.dumps(result, indent=1, default=float), encoding="utf-8")
    print(render_text(result, bold=sys.stdout.isatty()))
    try:
        say(f"report: {write_report(result, out / 'report.html')}")
    except ImportError as error:
        say(f"no report: {error}")
    say("fit the sources on every interaction and publish the bundle")
    model = refit(fitted, interactions, config)
    recommender = Recommender.of(model, interactions, config, fitted.settings)
    version = save_bundle(out / "bundle", recommender, evaluation=result)
    facts = check_bundle(out / "bundle")
    say(f"published and verified {version} ({facts['n_files']} files)")
    served = Recommender.load(out / "bundle", device=device)
    longest = len(served.users)
    for place in range(n_users):
        show_user(served, str(served.users.ids[place * longest // n_users]))
    print(f"bundle: {out / 'bundle'}\ntry:    tandem recommend {out / 'bundle'} --user 196 --explain")


def show_user(recommender: Recommender, user_id: str, *, newest: int = 5, k: int = 10) -> None:
    """Print what a user took last and what is recommended, with titles."""
    row = int(recommender.users.to_rows([user_id])[0])
    history, titles = recommender.histories[row], recommender.model.catalogue.titles
    print(f"user {user_id}, {len(history)} films; the newest: " + "; ".join(titles[i] for i in history[::-1][:newest]))
    for item in recommender.recommend(user_id, k=k):
        print(f"  {item.rank:2}. {item.title:<45} {item.score:.3f}  {', '.join(item.reasons)}")
    print()
