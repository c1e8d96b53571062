"""A problem from a JSON file: equations as text, read by a whitelist; nothing of the file is ever evaluated as code.

A file holds one object; with `data` it is a problem to learn, see `json_data`. Names of states, parameters and
definitions are identifiers; every number may be written as a number or as text, and as an expression of what was
declared before it ("17*3600", "115.83*0.444*0.007").

- `name`, `states` (list of names), `equations` (list of residuals over the states x, their derivatives x_dot, those of
  expressions dot(W*x), `t`, parameters and definitions; as many as states).
- `parameters` {name: number}, `definitions` {name: expression; later ones may use earlier ones}.
- `tables` {name: {"t": [...], "values": [...]}} are inputs in numbers, asked as name(t); in place of the numbers may
  stand "csv", the name of a file beside this one, and "columns" of it; "kind" and "outside" are those of ndae.table.
- `initial`: {"t": number, "y": {state: number}, "y_dot": {...}}; `t_span`: [start, end]. In "y" algebraic variables
  may be left out, and others that constraints determine; "y_dot" is needed where equations are nonlinear in it.
- `reference_end` {"t", "y": {state: number}, "recomputed_here": {"y": {...}}}, `exact` {state: expression of t}.
- `outputs`, `invariants` {name: expression over the states}: what instruments show, and what every solution conserves.
- everything else (`source`, `notes`, `conventions`, `verification`, ...) is kept as it is.
"""

import difflib
import json
import keyword
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sympy as sp

from ndae.experiments.problems.problem import Problem
from ndae.experiments.problems.tables import is_number, read_table
from ndae.symbolic.expressions.corners import as_corners
from ndae.symbolic.expressions.derivatives import Rate, dot
from ndae.symbolic.expressions.tables import Table
from ndae.symbolic.expressions.unknowns import Unknown
from ndae.symbolic.ground.words import check_known
from ndae.symbolic.numeric.divisors import check_divisors
from ndae.symbolic.parse import parse_expression
from ndae.symbolic.systems.system import System

MAX_BYTES = 5_000_000
MAX_STATES = 1_000
MAX_DIGITS = 308  # of a whole number, as many as doubles reach

# What is read; a key close to one of these is taken for a slip.
_READ = (
    "name", "title", "index", "states", "parameters", "tables", "definitions", "equations", "initial", "t_span",
    "exact", "reference_end", "source", "notes", "unknown", "outputs", "invariants", "learn", "data", "model",
    "training",
)  # fmt: skip
_REQUIRED = ("states", "equations", "initial", "t_span")
_WITH_DATA = ("states", "equations", "unknown", "data")


class ProblemFileError(ValueError):
    """A problem file does not say what it must, or says it in a way that cannot be read."""


def read_problem(path: Path) -> Problem:
    """The problem in the JSON file `path`; raises ProblemFileError, naming file, key and the mend, and OSError."""
    try:
        return _made(read_file(path))
    except ValueError as error:
        raise ProblemFileError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from error


def problem_from_text(text: str, default_name: str = "problem", folder: Path | None = None) -> Problem:
    """The problem in JSON `text`, with its CSV files in `folder`; raises ProblemFileError (a ValueError)."""
    return _made(_reader(text, default_name, folder))


def read_file(path: Path) -> "ProblemReader":
    """What reads the problem in the JSON file `path`; raises ProblemFileError for what is no JSON, and OSError."""
    if path.stat().st_size > MAX_BYTES:
        raise ProblemFileError(
            f"{path}: {path.stat().st_size:,} bytes; at most {MAX_BYTES:,} are read: build so large a system in Python"
        )
    try:
        return _reader(path.read_text(encoding="utf-8-sig"), path.stem, path.parent)
    except UnicodeDecodeError as error:
        raise ProblemFileError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except ValueError as error:
        raise ProblemFileError(f"{path}: {error}") from error


def _reader(text: str, default_name: str, folder: Path | None) -> "ProblemReader":
    try:
        data = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_int=_integer)
    except json.JSONDecodeError as error:
        raise ProblemFileError(f"no JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise ProblemFileError("no JSON that is read here: nested too deep") from None
    return ProblemReader(typed("the file", data, dict, "one object {...}"), default_name, folder)


def _made(reader: "ProblemReader") -> Problem:
    try:
        return reader.problem()
    except ProblemFileError:
        raise
    except ValueError as error:  # of the system or the problem, which know nothing of a file
        raise ProblemFileError(str(error)) from error


class ProblemReader:
    """Reads one file: what it says, its names as they are declared, and what these make."""

    def __init__(self, data: dict, default_name: str, folder: Path | None) -> None:
        self.data, self.folder, self.tables = data, folder, dict[str, Table | Unknown]()
        self.check_keys()
        self.name = typed("name", data.get("name", default_name), str, "text")
        self.time = sp.Symbol("t")
        self.symbols: dict[str, sp.Symbol] = {"t": self.time}
        self.said: dict[str, str] = {"t": "the time"}  # where each name was declared

    def check_keys(self) -> None:
        required = _WITH_DATA if "data" in self.data else _REQUIRED
        missing = [key for key in required if key not in self.data]
        unknown = {key: difflib.get_close_matches(key, _READ, 1, 0.8) for key in self.data if key not in _READ}
        for key, close in unknown.items():
            if close and close[0] not in self.data and not key.startswith(f"{close[0]}_"):
                raise ProblemFileError(f"unknown key {_quoted(key)}: write {close[0]!r}")
        if missing:
            raise ProblemFileError(
                f"{', '.join(map(repr, missing))} missing: a problem has {', '.join(map(repr, required))} and may "
                f"have {', '.join(repr(key) for key in _READ if key not in required)}"
            )

    def problem(self) -> Problem:
        if "data" in self.data:
            raise ProblemFileError("a problem with data is learned before it is solved: `ndae train`, then validate")
        states, parameters, fixed, definitions, system = self.system()
        t_span, initial, rates = self.span_and_start(fixed, parameters)
        published, recomputed = self.reference(t_span, parameters)
        return Problem(
            name=self.name,
            system=system,
            initial=initial,
            t_span=t_span,
            rates=rates,
            reference=published,
            recomputed=recomputed,
            exact=self.exact(states, parameters, definitions),
            index=self.index(),
            title=typed("title", self.data.get("title", ""), str, "text"),
            source=_texts("source", self.data.get("source", [])),
            notes=_texts("notes", self.data.get("notes", [])),
            texts=self.texts(),
        )

    def system(self) -> tuple[list[sp.Symbol], dict, dict, dict, System]:
        """States, parameters, the names that are fixed, definitions, and the system of them."""
        states = self.states()
        parameters = self.parameters()
        self.read_tables()
        self.read_unknowns()
        fixed = {
            name: s for name, s in self.symbols.items() if name not in self.tables
        }  # time and parameters: what an initial value may use
        for state in states:
            self.declare(state.name, state, "states")
            for order in (1, 2):
                derivative: Any = dot(state, order)
                self.declare(derivative.name, derivative, f"a derivative of {state.name}")
        definitions = self.definitions()
        equations = self.equations()
        if len(equations) != len(states):
            raise ProblemFileError(
                f"{len(equations)} equations for {len(states)} states; give as many of one as of the other"
            )
        named: dict[str, Any] = {
            role: {
                key: self.expression(f"{role}.{key}", text, self.symbols)
                for key, text in typed(role, self.data.get(role, {}), dict, "an object {name: expression}").items()
            }
            for role in ("outputs", "invariants")
        }
        system = System(
            equations, states, parameters, self.time, definitions=definitions or None, name=self.name, **named
        )
        return states, parameters, fixed, definitions, system

    def texts(self) -> dict[str, Any]:
        """What is only kept: all other keys, and where the end values come from."""
        origin = (self.data.get("reference_end") or {}).get("origin")
        found = {} if origin is None else {"reference_origin": typed("reference_end.origin", origin, str, "text")}
        return found | {key: value for key, value in self.data.items() if key not in _READ}

    def declare(self, name: Any, symbol: sp.Symbol, where: str) -> None:
        if not isinstance(name, str) or not name.isascii() or not name.isidentifier():
            raise ProblemFileError(f"{where}: {_quoted(name)} is no name: write letters, digits and _, no digit first")
        if keyword.iskeyword(name):
            raise ProblemFileError(f"{where}: {name!r} is a word of Python: write another name, such as {name[:3]!r}")
        if name in self.symbols:
            raise ProblemFileError(f"{where}: the name {name!r} is taken by {self.said[name]}: choose another")
        try:
            parse_expression("0", [name], nonsmooth=True)
        except ValueError:
            raise ProblemFileError(
                f"{where}: the name {name!r} is that of a function or constant: choose another"
            ) from None
        self.symbols[name], self.said[name] = symbol, where

    def states(self) -> list[sp.Symbol]:
        names = typed("states", self.data["states"], list, "a list of names")
        if not names or len(names) > MAX_STATES:
            raise ProblemFileError(f"states: {len(names)} names; give 1 to {MAX_STATES}")
        return [sp.Symbol(typed("states", name, str, "names, each as text")) for name in names]

    def parameters(self) -> dict[sp.Symbol, float]:
        values: dict[sp.Symbol, float] = {}
        for name, value in typed("parameters", self.data.get("parameters", {}), dict, "an object").items():
            number = self.number(f"parameters.{name}", value, {s.name: s for s in values}, values)
            self.declare(name, sp.Symbol(name), "parameters")
            values[self.symbols[name]] = number
        return values

    def read_tables(self) -> None:
        for name, said in typed("tables", self.data.get("tables", {}), dict, "an object").items():
            self.declare(name, sp.Symbol(name), "tables")
            self.tables[name] = read_table(name, typed(f"tables.{name}", said, dict, "an object"), self.folder)

    def read_unknowns(self) -> None:
        inputs = typed("data", self.data.get("data", {}), dict, "an object").get("inputs", {})
        unknown = typed("unknown", self.data.get("unknown", {}), dict, "an object {name: {...}}")
        for role, names in (("unknown", unknown), ("data.inputs", inputs)):
            for name in names:
                self.declare(name, sp.Symbol(name), role)
                self.tables[name] = Unknown(name)

    def definitions(self) -> dict[sp.Symbol, sp.Expr]:
        found = {}
        for name, text in typed("definitions", self.data.get("definitions", {}), dict, "an object").items():
            expression = self.expression(f"definitions.{name}", text, self.symbols)
            self.declare(name, sp.Symbol(name), "definitions")
            found[self.symbols[name]] = expression
        return found

    def equations(self) -> list[sp.Expr]:
        texts = typed("equations", self.data["equations"], list, "a list of expressions")
        for i, text in enumerate(texts):
            if isinstance(text, str) and re.search("(?<![<>=!:])=(?!=)", text):
                raise ProblemFileError(
                    f"equations[{i}]: {_quoted(text)} has a '=': write what should be zero, left side minus right side"
                )
        return [self.expression(f"equations[{i}]", text, self.symbols) for i, text in enumerate(texts)]

    def span_and_start(
        self, fixed: Mapping, parameters: Mapping
    ) -> tuple[tuple[float, float], dict[str, float], dict[str, float] | None]:
        span = typed("t_span", self.data["t_span"], list, "a list of two times")
        if len(span) != 2:
            raise ProblemFileError(f"t_span: {len(span)} entries; give the start and the end")
        start, end = (self.number(f"t_span[{i}]", t, fixed, parameters) for i, t in enumerate(span))
        initial = typed("initial", self.data["initial"], dict, 'an object {"y": {...}}')
        if not isinstance(initial.get("y"), dict) and ("y" not in initial or "y" in self.data["states"]):
            # The short form: the values themselves in the place of "y".
            values = {key: value for key, value in initial.items() if key not in ("t", "y_dot")}
            if not values or not set(values) <= set(self.data["states"]):
                raise ProblemFileError('initial: "y" missing: write {"y": {state: value}}')
            initial = {key: initial[key] for key in initial if key not in values} | {"y": values}
        at = self.number("initial.t", initial.get("t", start), fixed, parameters)
        if at != start:
            raise ProblemFileError(f"initial.t is {at:g}, but t_span begins at {start:g}: give the values at its begin")
        symbols, numbers = {**fixed, "t": self.time}, {**parameters, self.time: start}
        values = self.values("initial.y", initial["y"], symbols, numbers)
        rates = initial.get("y_dot")
        return (start, end), values, None if rates is None else self.values("initial.y_dot", rates, symbols, numbers)

    def reference(self, t_span, parameters) -> tuple[dict | None, dict | None]:
        block = self.data.get("reference_end")
        if block is None:
            return None, None
        block = typed("reference_end", block, dict, "an object")
        at = self.number("reference_end.t", block.get("t", t_span[1]), {}, {})
        if abs(at - t_span[1]) > 1e-12 * abs(t_span[1]):
            raise ProblemFileError(f"reference_end.t is {at:g}, but t_span ends at {t_span[1]:g}: make them the same")
        recomputed = block.get("recomputed_here")
        if recomputed is not None:
            inner = typed("reference_end.recomputed_here", recomputed, dict, "an object")
            recomputed = self.digits("reference_end.recomputed_here.y", inner.get("y"))
        return self.digits("reference_end.y", block.get("y")), recomputed

    def digits(self, where: str, values: Any) -> dict[str, str] | None:
        """Numbers as they are written, every digit kept; those that are expressions by their value."""
        if values is None:
            return None
        found = {}
        for name, value in self.by_state(where, values).items():
            number = self.number(f"{where}.{name}", value, {}, {})
            found[name] = value if isinstance(value, str) and is_number(value) else repr(number)
        return found

    def exact(self, states, parameters, definitions) -> dict[str, sp.Expr] | None:
        texts = self.data.get("exact")
        if texts is None:
            return None
        texts = typed("exact", texts, dict, "an object {state: expression of t}")
        names = {state.name for state in states}
        # Values of variables that only another form of the system has (`mu` of a stabilised one) are nothing to score.
        allowed = {n: s for n, s in self.symbols.items() if n not in names and not n.endswith("_dot")}
        found = {name: self.expression(f"exact.{name}", text, allowed) for name, text in texts.items() if name in names}
        if texts and not found:
            raise ProblemFileError(
                f"exact: none of {', '.join(map(repr, texts))} is a state; write {{state: expression}}"
            )
        for name, value in found.items():
            _check_no_rate(f"exact.{name}", value)
        for symbol, expression in reversed(definitions.items()):
            found = {name: value.subs(symbol, expression) for name, value in found.items()}
        for name, value in found.items():
            check_divisors(as_corners(value), f"exact.{name}", parameters)
        exact_values = {p: sp.Float(v, 30) for p, v in parameters.items()}
        found = {name: value.subs(exact_values) for name, value in found.items()}
        for name, value in found.items():
            if value.free_symbols - {self.time}:
                raise ProblemFileError(f"exact.{name} depends on a state through a definition: write it over t alone")
        return found or None

    def index(self) -> int | None:
        index = self.data.get("index")
        if index is None or (isinstance(index, int) and not isinstance(index, bool) and index >= 0):
            return index
        raise ProblemFileError(f"index: {_quoted(index)} is no whole number; write 0, 1, 2, ... or leave it out")

    def values(self, where: str, values: Any, symbols: Mapping, numbers: Mapping) -> dict[str, float]:
        return {
            name: self.number(f"{where}.{name}", value, symbols, numbers)
            for name, value in self.by_state(where, values).items()
        }

    def by_state(self, where: str, values: Any) -> dict[str, Any]:
        values, states = typed(where, values, dict, "an object {state: value}"), self.data["states"]
        check_known(values, states, f"{where}: the problem", "state", error=ProblemFileError)
        return values

    def expression(self, where: str, text: Any, symbols: Mapping[str, sp.Symbol]) -> sp.Expr:
        try:
            symbols = {name: symbol for name, symbol in symbols.items() if name not in self.tables}
            return parse_expression(_text(where, text), symbols, nonsmooth=True, tables=self.tables)
        except ValueError as error:
            raise ProblemFileError(f"{where}: {error}") from error

    def number(self, where: str, value: Any, symbols: Mapping, numbers: Mapping[sp.Symbol, float]) -> float:
        text = _text(where, value)
        if is_number(text):
            number = float(text)
        else:
            expression = self.expression(where, text, symbols)
            _check_no_rate(where, expression)
            check_divisors(as_corners(expression), where, numbers)
            values: Any = numbers
            expression = expression.subs(values)
            if expression.free_symbols:
                raise ProblemFileError(
                    f"{where}: {_quoted(text)} is no number: only parameters declared before it may stand in it"
                )
            value = expression.evalf(20)
            number = float(value) if value.is_real else math.nan
        if not math.isfinite(number):
            raise ProblemFileError(f"{where}: {_quoted(text)} is no finite real number")
        return number


def _check_no_rate(where: str, expression: sp.Expr) -> None:
    if expression.has(Rate):
        raise ProblemFileError(f"{where}: dot(...) stands in equations and definitions alone: write it out")


def _quoted(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:56]}...{text[-1]}"


def _text(where: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ProblemFileError(f"{where}: expected a number or an expression as text, got {_kind(value)}")
    return value.strip() if isinstance(value, str) else repr(value)


def typed(where: str, value: Any, kind: type, wanted: str) -> Any:
    if not isinstance(value, kind):
        raise ProblemFileError(f"{where}: expected {wanted}, got {_kind(value)}")
    return value


def _texts(where: str, value: Any) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else typed(where, value, list, "text or a list of texts")
    return tuple(typed(where, text, str, "texts") for text in values)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return f"{names.get(type(value), 'a number')} ({json.dumps(value)[:40]})"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in pairs:
        if key in made:
            raise ProblemFileError(f"the key {_quoted(key)} is given twice: name each once")
        made[key] = value
    return made


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ProblemFileError(f"a whole number of {len(text):,} digits: at most {MAX_DIGITS} are read")
    return int(text)


def _refuse_constant(name: str) -> float:
    raise ProblemFileError(f"{name} is no number that JSON has: give a finite one")
