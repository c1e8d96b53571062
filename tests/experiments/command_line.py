"""The command `ndae`, run as a user runs it."""

import os
import subprocess
import sys

from ndae.experiments.cli import commands as cli


def ndae(*arguments, cwd=None, env=None):
    """Run the command in a process of its own."""
    command = [sys.executable, "-m", "ndae", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": os.getcwd()} | (env or {})
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=120)


def in_process(capsys, *arguments):
    """Run the command in this process; return its exit code and what it printed."""
    code = cli.run([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err
