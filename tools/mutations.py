"""Makes mutants: copies of a module with one small change each.

In: the source of a module. Out: its mutants in source order. Only the changed piece of text is
replaced, so the rest stays as it was written.

Docstrings, texts other than SQL, annotations, imports and assertions are never changed.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from dataclasses import dataclass, replace

COMPARISONS: dict[type[ast.cmpop], tuple[str, ...]] = {
    ast.Lt: ("<=", ">="),
    ast.LtE: ("<", ">"),
    ast.Gt: (">=", "<="),
    ast.GtE: (">", "<"),
    ast.Eq: ("!=",),
    ast.NotEq: ("==",),
    ast.Is: ("is not",),
    ast.IsNot: ("is",),
    ast.In: ("not in",),
    ast.NotIn: ("in",),
}
ARITHMETIC: dict[type[ast.operator], str] = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "/",
    ast.Div: "*",
    ast.FloorDiv: "*",
    ast.Mod: "*",
    ast.Pow: "*",
    ast.BitOr: "&",
    ast.BitAnd: "|",
}
COMMENT = re.compile(r"  # .*")
SQL = re.compile(r"\b(SELECT|UPDATE|INSERT|DELETE|WHERE)\b")
SQL_CHANGES = (
    (r"\s+(AND|WHERE)\s+\w+(\.\w+)?\s*(=|!=|<|>|<=|>=|IS|IN)\s*('\w*'|\([^()]*\)|[\w.?]+)", ""),
    (r"\bAND\b", "OR"),
    (r"(?<=\s)>(?=\s)", ">="),
    (r"\bIS NOT NULL\b", "IS NULL"),
    (r"'(planned|in_flight)'", "'unknown'"),
    (r"(?<= )\+ 1\b", "+ 2"),
    (r"\bORDER BY \w+(\.\w+)?", ""),
    (r"\bcoalesce\(\w+, (\?)\)", r"\1"),
)
"""A condition less, another operator, another state; applied to each match in turn."""


@dataclass(frozen=True)
class Mutant:
    """A module with one change.

    Attributes:
        path: the module, from the root of the project.
        lines: lines of the statement that is changed, for simple statements; else of its head. In
            a function with a cache, which only the first call enters: all lines of the module.
        coroutine: lines of the coroutine that it is in; empty if it is in none.
        line: line of the change.
        key: what it is, whatever line it is in: function, old and new text.
        original: the module.
        source: the module with the change.
    """

    path: str
    lines: range
    coroutine: range
    line: int
    key: str
    original: str
    source: str


def mutants_of(path: str, source: str) -> list[Mutant]:
    """All mutants of a module."""
    finder = _Finder(path, source)
    finder.visit(ast.parse(source))
    unique = {mutant.source: mutant for mutant in finder.found}
    seen: Counter[str] = Counter()
    numbered = []
    for mutant in unique.values():
        seen[mutant.key] += 1
        again = f" ({seen[mutant.key]})" if seen[mutant.key] > 1 else ""
        numbered.append(replace(mutant, key=mutant.key + again))
    return numbered


def unchanged(path: str, source: str) -> Mutant:
    """The module as it is."""
    return Mutant(path, range(1, source.count("\n") + 1), range(0), 1, "unchanged", source, source)


class _Finder(ast.NodeVisitor):
    """Walks through a module and collects what can be changed."""

    def __init__(self, path: str, source: str) -> None:
        self.found: list[Mutant] = []
        self._path = path
        self._source = source.encode()  # positions in the tree count bytes
        self._starts = [0]
        for line in self._source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))
        self._scope: list[str] = []
        self._lines = range(1)
        self._in_cached = False
        self._coroutine = range(0)

    def _at(self, line: int, column: int) -> int:
        return self._starts[line - 1] + column

    def _start(self, node: ast.expr | ast.stmt) -> int:
        return self._at(node.lineno, node.col_offset)

    def _end(self, node: ast.expr | ast.stmt) -> int:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._at(node.end_lineno, node.end_col_offset)

    def _text(self, node: ast.expr | ast.stmt) -> str:
        return self._source[self._start(node) : self._end(node)].decode()

    def _replace(self, start: int, end: int, new: str) -> None:
        old = self._source
        changed = old[:start] + new.encode() + old[end:]
        try:
            ast.parse(changed)
        except SyntaxError:
            return
        first = old.rfind(b"\n", 0, start) + 1
        last = len(old) - old.find(b"\n", end) if b"\n" in old[end:] else 0
        before, after = old[first : len(old) - last], changed[first : len(changed) - last]
        texts = (" ".join(COMMENT.sub("", text.decode()).split()) for text in (before, after))
        key = f"{'.'.join(self._scope) or 'module'}: {' → '.join(texts)}"
        line = old.count(b"\n", 0, start) + 1
        texts_whole = (old.decode(), changed.decode())
        where = (self._path, self._lines, self._coroutine)
        self.found.append(Mutant(*where, line, key, *texts_whole))

    def _swap(self, node: ast.expr | ast.stmt, new: str) -> None:
        self._replace(self._start(node), self._end(node), new)

    def _operator(self, left: ast.expr, right: ast.expr, old: str, new: str) -> None:
        """Replace an operator, which the tree gives no position to."""
        start, end = self._end(left), self._start(right)
        between = self._source[start:end].decode()
        changed = re.sub(rf"(?<![#\w]){re.escape(old)}(?!\w)", new, between, count=1)
        if changed != between:
            self._replace(start, end, changed)

    # ---- where it is

    def visit(self, node: ast.AST) -> None:
        if not isinstance(node, ast.stmt):
            super().visit(node)
            return
        outer, body = self._lines, getattr(node, "body", None)
        assert node.end_lineno is not None
        last = body[0].lineno - 1 if body else node.end_lineno
        self._lines = range(node.lineno, max(last, node.lineno) + 1)
        if self._in_cached:
            self._lines = range(1, len(self._starts))
        super().visit(node)
        self._lines = outer

    def _in_scope(
        self,
        node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef,
        defaults: list[ast.expr],
    ) -> None:
        self._scope.append(node.name)
        for child in [*defaults, *node.body]:
            self.visit(child)
        self._scope.pop()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._in_scope(node, [])

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        defaults = (*node.args.defaults, *node.args.kw_defaults)
        outer = self._in_cached
        self._in_cached |= any("cache" in self._text(each) for each in node.decorator_list)
        self._in_scope(node, [default for default in defaults if default is not None])
        self._in_cached = outer

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        outer = self._coroutine
        assert node.end_lineno is not None
        self._coroutine = range(node.lineno, node.end_lineno + 1)
        self.visit_FunctionDef(node)
        self._coroutine = outer

    # ---- statements

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Constant):
            return  # a docstring
        if not isinstance(node.value, ast.Yield):
            self._swap(node, "pass")
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        if any(isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets):
            self._swap(node, "pass")
        self.visit(node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._swap(node, "pass")
        if sign := {ast.Add: ("+=", "-="), ast.Sub: ("-=", "+=")}.get(type(node.op)):
            self._operator(node.target, node.value, *sign)
        self.visit(node.value)

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is None:
            self._swap(node, "pass")
        elif not (isinstance(node.value, ast.Constant) and node.value.value is None):
            self._swap(node, "return None")
        self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        self._swap(node, "pass")
        self.generic_visit(node)

    def visit_Continue(self, node: ast.Continue) -> None:
        self._swap(node, "pass")

    def visit_Break(self, node: ast.Break) -> None:
        self._swap(node, "pass")

    def visit_Delete(self, node: ast.Delete) -> None:
        self._swap(node, "pass")

    def visit_If(self, node: ast.If) -> None:
        if self._text(node.test) == "TYPE_CHECKING":
            return
        self._negate(node.test)
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        self._swap(node.test, "False")
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._negate(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self._swap(test, "True")
            self._negate(test)
        self.generic_visit(node)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.type is not None:
            self._swap(node.type, "()")
        for child in node.body:
            self.visit(child)

    def visit_match_case(self, node: ast.match_case) -> None:
        if self._text(node.body[0]).startswith("assert_never("):
            return  # never reached
        if node.guard is not None:
            self._swap(node.guard, "True")
            self.visit(node.guard)
        assert node.pattern.end_lineno is not None
        assert node.pattern.end_col_offset is not None
        end = self._at(node.pattern.end_lineno, node.pattern.end_col_offset)
        if node.guard is None and not self._source[end:].startswith(b")"):
            self._replace(end, end, " if False")
        for child in node.body:
            self.visit(child)

    def visit_Assert(self, node: ast.Assert) -> None:
        """Only for the reader and the type checker."""

    def visit_Import(self, node: ast.Import) -> None:
        """Without it nothing works."""

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """Without it nothing works."""

    # ---- expressions

    def _negate(self, test: ast.expr) -> None:
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            return  # `visit_UnaryOp` does it
        if isinstance(test, ast.Compare) and len(test.ops) == 1:
            return  # so do the comparisons
        self._swap(test, f"not ({self._text(test)})")

    def visit_Compare(self, node: ast.Compare) -> None:
        words = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "=="}
        words |= {ast.NotEq: "!=", ast.Is: "is", ast.IsNot: "is not"}
        words |= {ast.In: "in", ast.NotIn: "not in"}
        terms = [node.left, *node.comparators]
        for operator, left, right in zip(node.ops, terms, terms[1:], strict=False):
            for new in COMPARISONS[type(operator)]:
                self._operator(left, right, words[type(operator)], new)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            self._operator(left, right, old, new)
        for value in node.values:
            others = [f"({ast.unparse(other)})" for other in node.values if other is not value]
            self._swap(node, others[0] if len(others) == 1 else f"({f' {old} '.join(others)})")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not | ast.USub):
            self._replace(self._start(node), self._start(node.operand), "")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        words = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//"}
        words |= {ast.Mod: "%", ast.Pow: "**", ast.BitOr: "|", ast.BitAnd: "&"}
        if type(node.op) in words:
            old, new = words[type(node.op)], ARITHMETIC[type(node.op)]
            self._operator(node.left, node.right, old, new)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        parts: list[ast.expr | ast.keyword] = [*node.args, *node.keywords]
        if len(parts) > 1 or node.keywords:
            self._drop_argument(node, parts)
        self.generic_visit(node)

    def _drop_argument(self, node: ast.Call, parts: list[ast.expr | ast.keyword]) -> None:
        """Leave the last place out, and each argument that has a name."""
        for number, part in enumerate(parts):
            if isinstance(part, ast.keyword) or number == len(parts) - 1:
                end = self._end(parts[number])  # type: ignore[arg-type]
                start = self._end(parts[number - 1]) if number else self._start(part)  # type: ignore[arg-type]
                if not number and len(parts) > 1:
                    end = self._start(parts[1])  # type: ignore[arg-type]
                self._replace(start, end, "")

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        self._sql(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self._swap(node, str(not value))
        elif isinstance(value, int | float):
            whole = value == int(value)
            for other in (value + 1, value - 1) if whole else (value * 1.1, value * 0.9):
                new = repr(other if isinstance(other, int) else round(other, 6))
                self._swap(node, f"({new})" if other < 0 else new)
        elif isinstance(value, str):
            self._sql(node)

    def _sql(self, node: ast.Constant | ast.JoinedStr) -> None:
        text = self._text(node)
        if not SQL.search(text):
            return
        for pattern, new in SQL_CHANGES:
            for match in re.finditer(pattern, text):
                start = self._start(node)
                before = len(text[: match.start()].encode())
                after = len(text[: match.end()].encode())
                self._replace(start + before, start + after, match.expand(new))
