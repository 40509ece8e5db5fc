"""Conditions as text: "status=on and (tier>=3 or not exists(serial))".

    expression  = all { "or" all }
    all         = one { "and" one }
    one         = "not" one | "(" expression ")" | "exists" "(" NAME ")" | comparison
    comparison  = NAME ( "=" | "==" | "!=" | "<" | "<=" | ">" | ">=" ) VALUE
                | NAME [ "not" ] "in" "(" VALUE { "," VALUE } ")"

A NAME or VALUE with spaces, parentheses, commas, quotes or operators in it stands in single or
double quotes, and a quote within such quotes is doubled. Keywords are read in any case.
"""

import re
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from atlas_client.values import Value
from atlas_client.where import AttributeRef, Where, all_of, any_of, attribute

DEPTH_MAX = 16
"""As deep as the platform takes a filter."""

ReadValue = Callable[[str, str, bool], Value]
"""(attribute, text, is_quoted) -> value; what it raises goes to the caller."""

_TOKENS = re.compile(
    r"""\s*(?:
        (?P<symbol> [(),] | [<>!=]= | [<>=] )
      | '(?P<single> (?:[^']|'')* )'
      | "(?P<double> (?:[^"]|"")* )"
      | (?P<word> [^\s(),<>!='"]+ )
    )""",
    re.VERBOSE,
)
_CONDITION = re.compile(r"([^<>!=]+)([<>!]=|[<>=])(.*)", re.DOTALL)
_COMPARE: dict[str, Callable[[AttributeRef, Value], Where]] = {
    "=": AttributeRef.equals,
    "==": AttributeRef.equals,
    "!=": lambda ref, value: ~ref.equals(value),
    "<": lambda ref, value: ref < value,
    "<=": lambda ref, value: ref <= value,
    ">": lambda ref, value: ref > value,
    ">=": lambda ref, value: ref >= value,
}


class ExpressionError(ValueError):
    """What is wrong with a condition, and where."""


class _Token(NamedTuple):
    kind: str
    """symbol, word, quoted or end."""
    text: str
    position: int


def parse_condition(text: str, read: ReadValue) -> Where:
    """Read one comparison; all after its operator is the value: "label=a b (c)".

    Raises ExpressionError.
    """
    found = _CONDITION.fullmatch(text)
    if found is None or not found[1].strip():
        raise ExpressionError(f"{text!r}: write ATTRIBUTE=VALUE, or with != < <= > >=")
    name, operator, value = found[1].strip(), found[2], found[3].strip()
    return _COMPARE[operator](attribute(name), read(name, value, False))


def parse_expression(text: str, read: ReadValue) -> Where:
    """Read an expression. Raises ExpressionError."""
    return _Parser(text, read).parse()


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    position = 0
    end = len(text.rstrip())
    while position < end:
        found = _TOKENS.match(text, position)
        if found is None:
            rest = text[position:].lstrip()
            what = "a quote that is not closed" if rest[:1] in {"'", '"'} else "unexpected"
            raise ExpressionError(f"{text!r}: {what} at {rest[:20]!r}")
        kind = str(found.lastgroup)
        content, start = found[kind], found.start(kind)
        if kind in {"single", "double"}:
            quote = "'" if kind == "single" else '"'
            kind, content = "quoted", content.replace(quote * 2, quote)
        tokens.append(_Token(kind, content, start))
        position = found.end()
    return [*tokens, _Token("end", "", len(text))]


class _Parser:
    def __init__(self, text: str, read: ReadValue) -> None:
        self._text = text
        self._read = read
        self._tokens = _tokens(text)
        self._next = 0
        self._depth = 0

    def parse(self) -> Where:
        where = self._expression()
        if self._peek().kind != "end":
            self._refuse("expected and, or, or the end")
        return where

    def _expression(self) -> Where:
        parts = [self._all()]
        while self._takes("or"):
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else any_of(parts)

    def _all(self) -> Where:
        parts = [self._one()]
        while self._takes("and"):
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else all_of(parts)

    def _one(self) -> Where:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            self._refuse(f"nested deeper than {DEPTH_MAX}")
        try:
            if self._takes("not"):
                return ~self._one()
            if self._takes("("):
                where = self._expression()
                self._expect(")")
                return where
            return self._comparison()
        finally:
            self._depth -= 1

    def _comparison(self) -> Where:
        token = self._operand("an attribute")
        if token.kind == "word" and token.text.lower() == "exists" and self._takes("("):
            name = self._operand("an attribute").text
            self._expect(")")
            return attribute(name).exists()
        name = token.text
        if self._takes("not"):
            self._expect("in")
            return ~self._in(name)
        if self._takes("in"):
            return self._in(name)
        compare = _COMPARE.get(self._peek().text) if self._peek().kind == "symbol" else None
        if compare is None:
            self._refuse(f"expected = != < <= > >= or in after {name!r}")
        self._next += 1
        return compare(attribute(name), self._value(name))

    def _in(self, name: str) -> Where:
        self._expect("(")
        values = [self._value(name)]
        while self._takes(","):
            values.append(self._value(name))
        self._expect(")")
        return attribute(name).one_of(values)

    def _value(self, name: str) -> Value:
        token = self._operand("a value")
        return self._read(name, token.text, token.kind == "quoted")

    def _operand(self, what: str) -> _Token:
        token = self._peek()
        if token.kind not in {"word", "quoted"}:
            self._refuse(f"expected {what}")
        self._next += 1
        return token

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _takes(self, text: str) -> bool:
        """Take the next token if it is this symbol or keyword; a quoted one is neither."""
        token = self._peek()
        is_it = token.kind in {"symbol", "word"} and token.text.lower() == text
        self._next += is_it
        return is_it

    def _expect(self, text: str) -> None:
        if not self._takes(text):
            self._refuse(f"expected {text}")

    def _refuse(self, problem: str) -> NoReturn:
        token = self._peek()
        where = "at the end" if token.kind == "end" else f"at {self._text[token.position :][:20]!r}"
        raise ExpressionError(f"{self._text!r}: {problem} {where}")
