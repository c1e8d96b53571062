"""About two thousand attempts to have text run as code, by expressions, problem files and names: none is run.

The corpus is payloads in places: corpus/payloads.jsonl, each as an expression, inside of larger ones, and under every
key of a problem file; and corpus/names.jsonl as symbols of expressions. It is read in a process of its own whose audit
hook counts what Python itself says it does: executing code, opening files, importing, starting processes.
"""

import json
import subprocess
import sys

from tests.symbolic.odd_names import CORPUS, ODD_NAMES, lines

WRAPPERS = ["{}", "x + ({})", "sqrt({})", "Max(x, {})", "Piecewise((x, x > ({})), (y, True))", "x**({})", "{}\n", "({}"]
BASE = {
    "name": "p", "title": "t", "states": ["x", "y"], "parameters": {"k": 1}, "definitions": {"d": "k*x"},
    "equations": ["x_dot + d", "y - x"], "initial": {"t": 0, "y": {"x": 1}, "y_dot": {"x": -1}}, "t_span": [0, 1],
    "exact": {"x": "exp(-k*t)"}, "reference_end": {"t": 1, "y": {"x": "0.3"}}, "source": "s", "notes": ["n"],
    "index": 1,
}  # fmt: skip

READ = """
import builtins, json, os, sys
from ndae.experiments.problems import problem_from_text
from ndae.symbolic import parse_expression

expressions, files, names = json.load(open(sys.argv[1]))
calls, events, armed = [], [], False
builtins.PWNED = lambda *a: calls.append(a)
FORBIDDEN = ("exec", "open", "import", "os.", "subprocess.", "socket.", "ctypes.", "shutil.", "pickle.", "marshal.")

def hook(event, arguments):
    if armed and event.startswith(FORBIDDEN):
        events.append((event, repr(arguments)[:200]))

sys.addaudithook(hook)

def read(function, *arguments, **rest):
    try:
        function(*arguments, **rest)
        return 1
    except ValueError:
        return 0

def all_of_it():
    accepted = [sum(read(parse_expression, e, ["x", "y"], nonsmooth=n) for e in expressions for n in (False, True))]
    accepted.append(sum(read(problem_from_text, f) for f in files))
    accepted.append(sum(read(parse_expression, n, [n, "x"]) for n in names))
    return accepted

first = all_of_it()  # what is imported or opened on first use is, now
armed = True
second = all_of_it()
armed = False
open("tried", "w").close()
json.dump({"calls": len(calls), "events": events, "accepted": [first, second], "files": os.listdir(".")}, sys.stdout)
"""


def attempts():
    """Expressions, texts of problem files, and names."""
    payloads = lines("payloads.jsonl")
    expressions = [wrapper.format(p) if "{}" in wrapper else wrapper for p in payloads for wrapper in WRAPPERS]
    files = []
    for p in payloads:
        for key, old in BASE.items():
            if key in ("title", "source", "notes"):
                continue  # kept as they are: there every text is right
            placed = p if not isinstance(old, list) else [p, *old[1:]]
            if isinstance(old, dict):
                placed = {**old, next(iter(old)): p}
            files.append(json.dumps(BASE | {key: placed}))
        files.append(json.dumps(BASE)[:-1] + f", {p}}}")
        files.append(json.dumps(BASE | {"parameters": {p: 1}}))
    return expressions, files, [n for n in ODD_NAMES if len(n) < 1000]


def test_nothing_is_run(tmp_path):
    attempted = attempts()
    assert [len(a) for a in attempted] >= [700, 1000, 500]
    (tmp_path / "in.json").write_text(json.dumps(attempted))
    (tmp_path / "empty").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path / "in.json")],
        capture_output=True, text=True, cwd=tmp_path / "empty", timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)
    assert result["calls"] == 0 and result["events"] == []
    assert result["files"] == ["tried"]
    accepted, again = result["accepted"]
    assert accepted == again
    assert accepted[0] == 0, "an expression of the corpus was read as mathematics"


def test_the_hook_sees_what_it_should(tmp_path):
    """The same program, whose reader is replaced by one that runs the text, is found out."""
    evil = READ.replace("def read(", "def parse_expression(e, *a, **k):\n    eval(e)\n    return 1\n\ndef read(", 1)
    (tmp_path / "in.json").write_text(json.dumps([["PWNED() or open('PWNED', 'w').close()"], [], []]))
    done = subprocess.run(
        [sys.executable, "-c", evil, str(tmp_path / "in.json")],
        capture_output=True, text=True, cwd=tmp_path, timeout=300,
    )  # fmt: skip
    result = json.loads(done.stdout)
    assert result["calls"] == 4 and {e for e, _ in result["events"]} >= {"exec", "open"}
    assert CORPUS.is_dir()
