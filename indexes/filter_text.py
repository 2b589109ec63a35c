"""The text form of a filter: `category = "Books" and not (price >= 20 or brand in ('A', 'B'))`.

filter      = all { "or" all }
all         = one { "and" one }
one         = "not" one | "(" filter ")" | comparison
comparison  = column operator value | column [ "not" ] "in" "(" value { "," value } ")"
            | column "has" value | column "is" [ "not" ] "missing"
operator    = "=" | "!=" | "<" | "<=" | ">" | ">="
column      = letters, digits and _, or anything between backquotes
value       = number | "text" | 'text' (backslash before a quote or backslash) | true | false
"""

import re
from dataclasses import dataclass

from indexes.filter_terms import MAX_DEPTH, MAX_TERMS, And, Compare, Filter, Not, Or, Value, make_compare

MAX_LENGTH = 100_000
WORDS = ("and", "or", "not", "in", "has", "is", "missing", "true", "false")
TOKEN = re.compile(
    r"""\s*(?:
        (?P<number>[-+]?(?:\d+\.\d*|\.\d+|\d+)(?:[eE][-+]?\d+)?(?![\w.]))
      | (?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
      | (?P<column>`[^`]+`)
      | (?P<name>[^\W\d]\w*)
      | (?P<sign><=|>=|!=|=|<|>|\(|\)|,)
      | (?P<end>\Z)
    )""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    position: int


def parse_filter(text: str) -> Filter:
    """Read a filter from text.

    Raises:
        ValueError: with what was expected, what was found and where (from 1).
    """
    if len(text) > MAX_LENGTH:
        raise ValueError(f"filter: expected at most {MAX_LENGTH} characters, got {len(text)}")
    parser = _Parser(_tokens(text))
    parsed = parser.any_of(MAX_DEPTH)
    parser.expect("end", "")
    return parsed


def format_filter(expression: Filter) -> str:
    """Write a filter as text that `parse_filter` reads back."""
    match expression:
        case Not(Compare(column, "is missing", _)):
            return f"{_name(column)} is not missing"
        case Not(part):
            return f"not {_bracketed(part)}"
        case And(parts):
            return " and ".join(_bracketed(part) for part in parts)
        case Or(parts):
            return " or ".join(_bracketed(part) for part in parts)
        case Compare(column, "is missing", _):
            return f"{_name(column)} is missing"
        case Compare(column, operator, tuple() as values):
            return f"{_name(column)} {operator} ({', '.join(_literal(value) for value in values)})"
        case Compare(column, operator, value):
            return f"{_name(column)} {operator} {_literal(value)}"


def _bracketed(part: Filter) -> str:
    return format_filter(part) if isinstance(part, Compare) else f"({format_filter(part)})"


def _name(column: str) -> str:
    plain = re.fullmatch(r"[^\W\d]\w*", column) and column.lower() not in WORDS
    return column if plain else f"`{column}`"


def _literal(value: Value | tuple[Value, ...]) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return repr(value)


def _tokens(text: str) -> list[_Token]:
    tokens, at = [], 0
    while not tokens or tokens[-1].kind != "end":
        match = TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            start = at + len(text[at:]) - len(text[at:].lstrip())
            raise ValueError(f"filter: cannot read {text[start : start + 20]!r} at position {start + 1}")
        kind = match.lastgroup
        word = match[kind].lower()
        if kind == "name" and word in WORDS:
            tokens.append(_Token("word", word, match.start(kind) + 1))
        else:
            tokens.append(_Token(kind, match[kind], match.start(kind) + 1))
        at = match.end()
    return tokens


class _Parser:
    """Reads the tokens from left to right; each method returns what it has read."""

    def __init__(self, tokens: list[_Token]) -> None:
        self.tokens, self.at, self.budget = tokens, 0, [MAX_TERMS]

    def take(self, kind: str, *texts: str) -> _Token | None:
        token = self.tokens[self.at]
        if token.kind != kind or (texts and token.text not in texts):
            return None
        self.at += 1
        return token

    def fail(self, expected: str) -> ValueError:
        token = self.tokens[self.at]
        found = "the end" if token.kind == "end" else repr(token.text[:40])
        return ValueError(f"filter: expected {expected} at position {token.position}, got {found}")

    def expect(self, kind: str, text: str) -> None:
        if self.take(kind, text) is None:
            raise self.fail(repr(text) if text else "'and', 'or' or the end")

    def any_of(self, depth: int) -> Filter:
        """One or more `all_of`, joined by `or`."""
        parts = [self.all_of(depth)]
        while self.take("word", "or"):
            parts.append(self.all_of(depth))
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def all_of(self, depth: int) -> Filter:
        """One or more `one`, joined by `and`."""
        parts = [self.one(depth)]
        while self.take("word", "and"):
            parts.append(self.one(depth))
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def one(self, depth: int) -> Filter:
        """A comparison, its negation, or a whole filter in brackets; `depth` more of these may lie in it."""
        if depth == 0:
            raise ValueError(f"filter: expected at most {MAX_DEPTH} levels of brackets")
        if self.take("word", "not"):
            return Not(self.one(depth - 1))
        if self.take("sign", "("):
            inside = self.any_of(depth - 1)
            self.expect("sign", ")")
            return inside
        return self.comparison()

    def comparison(self) -> Filter:
        """A column, an operator and what it is compared with."""
        token = self.take("name") or self.take("column")
        if token is None:
            raise self.fail("the name of a column")
        column = token.text.strip("`")
        if self.take("word", "is"):
            negated = self.take("word", "not")
            self.expect("word", "missing")
            return make_compare(column, "is missing", negated is None, self.budget)
        if self.take("word", "not"):
            self.expect("word", "in")
            return Not(make_compare(column, "in", self.values(), self.budget))
        if self.take("word", "in"):
            return make_compare(column, "in", self.values(), self.budget)
        sign = self.take("word", "has") or self.take("sign", "=", "!=", "<", "<=", ">", ">=")
        if sign is None:
            raise self.fail("an operator (= != < <= > >= in has is)")
        return make_compare(column, sign.text, self.value(), self.budget)

    def values(self) -> list[Value]:
        """What stands in the brackets after `in`: at least one."""
        self.expect("sign", "(")
        values = [self.value()]
        while self.take("sign", ","):
            values.append(self.value())
        self.expect("sign", ")")
        return values

    def value(self) -> Value:
        """A number, a text or a truth value."""
        if token := self.take("number"):
            whole = re.fullmatch(r"[-+]?\d{1,300}", token.text)  # more digits than a float has: no finite number
            return int(token.text) if whole else float(token.text)
        if token := self.take("text"):
            return re.sub(r"\\(.)", r"\1", token.text[1:-1], flags=re.DOTALL)
        if token := self.take("word", "true", "false"):
            return token.text == "true"
        raise self.fail("a number, text in quotes, true or false")
