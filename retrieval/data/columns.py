"""Column names: what the tables call things, and the map from a file's names to them."""

from collections.abc import Mapping

ITEM_TEXTS = ("title", "description", "category", "brand")
INTERACTION_COLUMNS = ("user_id", "item_id", "timestamp", "event", "weight", "label", "rating")
REQUIRED = {"items": ("item_id", "title"), "interactions": ("user_id", "item_id", "timestamp"), "users": ("user_id",)}
KNOWN = {
    "items": ("item_id", *ITEM_TEXTS),
    "interactions": INTERACTION_COLUMNS,
    "users": ("user_id", "segment", "profile"),
}


class ColumnMap:
    """Translates between our names and a file's; `{"user_id": "customer"}` reads the column `customer` as `user_id`.

    An empty name, as in `{"label": ""}`, leaves that optional column unread.
    """

    def __init__(self, table: str, given: Mapping[str, str] | None) -> None:
        names: dict[str, str] = dict(given or {})
        for ours, theirs in names.items():
            if ours not in KNOWN[table]:
                raise ValueError(f"{table}: expected one of {', '.join(KNOWN[table])} to map, got {ours}={theirs}")
            if not theirs and ours in REQUIRED[table]:
                raise ValueError(f"expected a column for {ours}, which {table} need, got an empty name")
        self._theirs = {ours: ours for ours in KNOWN[table]} | names
        taken = [theirs for theirs in self._theirs.values() if theirs]
        if repeated := sorted({theirs for theirs in taken if taken.count(theirs) > 1}):
            both = [ours for ours, theirs in self._theirs.items() if theirs == repeated[0]]
            raise ValueError(f"expected one meaning per column, got {repeated[0]!r} as {' and '.join(both)}; map both")
        self.required = {self._theirs[ours]: f"{table}.{ours}" for ours in REQUIRED[table]}
        """The file's names of the columns that every file must have -> TABLE.NAME of ours, as `--map` takes it."""
        self.asked = {theirs: f"{table}.{ours}" for ours, theirs in names.items() if theirs}
        """The same of the columns that the map names: one that no file has is somebody's mistake."""
        self.known = tuple(taken)
        """The file's names of all columns with a meaning."""
        self._ours = {theirs: ours for ours, theirs in self._theirs.items() if theirs}

    def to_ours(self, name: str) -> str:
        """Gives our name of a file's column; its own name if it has no meaning for us."""
        return self._ours.get(name, name)
