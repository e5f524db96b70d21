"""The command line, on a finished project."""

import re
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from charlm.cli import main
from charlm.models import checkpoint
from charlm.text.vocabulary import Vocabulary


@pytest.fixture
def charlm(finished_project: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The command line, called in a folder of the finished project."""
    monkeypatch.chdir(finished_project / "stages")
    return lambda *arguments: CliRunner().invoke(main, arguments, prog_name="charlm")


def test_generate_continues_the_prompt_and_repeats_itself_for_a_seed(
    charlm: Callable[..., Result], finished_project: Path
) -> None:
    first = charlm("generate", "The lake ", "--length", "40", "--seed", "7")
    assert first.exit_code == 0
    assert first.stdout.startswith("The lake ")
    assert len(first.stdout) == len("The lake ") + 40 + len("\n")
    data = finished_project / "data"
    assert first.stderr == f"bigram from {data}, the workspace's result; --model takes any run:\n"
    assert charlm("generate", "The lake ", "--length", "40", "--seed", "7").output == first.output
    assert charlm("generate", "The lake ", "--length", "40").stdout != first.stdout


def test_generate_colours_each_character_by_its_bits(charlm: Callable[..., Result], finished_project: Path) -> None:
    arguments = ("generate", "The ", "--length", "40", "--seed", "7")
    plain = charlm(*arguments).stdout
    plainly = charlm("generate", "The ", "--length", "40", "--seed", "7", "--show-surprise")
    assert plainly.stdout == plain  # no terminal
    coloured = CliRunner().invoke(main, [*arguments, "--show-surprise"], color=True).stdout
    pieces = re.findall(r"48;2;255;(\d+);\1m(.)", coloured, re.DOTALL)
    assert "".join(char for _, char in pieces) + "\n" == plain
    vocabulary = Vocabulary.load(finished_project / "data/prepare/vocabulary.json")
    table = checkpoint.load(finished_project / "data/train/model.safetensors", vocabulary)
    tokens = vocabulary.encode(plain[:-1]).astype(np.int64)
    bits = -np.log2(table.next_char_probabilities(tokens[:-1, None])[np.arange(43), tokens[1:]])
    expected = [255, *(255 * (1 - np.minimum(bits / 8, 1)))]
    assert [int(pale) for pale, _ in pieces] == pytest.approx(expected, abs=0.51)


def test_generate_escapes_what_the_terminal_cannot_show(charlm: Callable[..., Result], finished_project: Path) -> None:
    """It used to be a traceback on a Latin-1 terminal, with “ or — in the vocabulary."""
    arguments = ("generate", "—", "--length", "40", "--seed", "7")
    shown = CliRunner(charset="latin-1").invoke(main, arguments)
    assert shown.exit_code == 0, shown.output
    assert shown.stdout_bytes == charlm(*arguments).stdout.encode("latin-1", "backslashreplace")
    assert shown.stdout.startswith("\\u2014")


def test_generate_takes_a_folder_with_checkpoint_and_vocabulary_side_by_side(
    charlm: Callable[..., Result], finished_project: Path, tmp_path: Path
) -> None:
    for name in ("train/model.safetensors", "prepare/vocabulary.json"):
        (tmp_path / Path(name).name).write_bytes((finished_project / "data" / name).read_bytes())
    arguments = ("generate", "A", "--length", "30", "--seed", "1")
    assert charlm(*arguments, "--model", str(tmp_path)).stdout == charlm(*arguments).stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ("K",),
            1,
            "cannot be used.\nCharacter 'K' (U+004B, LATIN CAPITAL LETTER K) at position 0 is not among the 73",
        ),
        (
            ("--model", "/nowhere"),
            1,
            "Error: No model in /nowhere: looked for model.safetensors and vocabulary.json in",
        ),
        (("--temperature", "0"), 2, "Invalid value for '--temperature': 0.0 is not in the range x>0."),
        (("--length", "-1"), 2, "Invalid value for '--length': -1 is not in the range 1<=x<=10000000."),
        (("--length", "1000000000000"), 2, "1000000000000 is not in the range 1<=x<=10000000."),
        (("--temperature", "nan"), 2, "Invalid value for '--temperature': nan is not a finite number."),
    ],
)
def test_generate_says_what_is_wrong(
    charlm: Callable[..., Result], arguments: tuple[str, ...], code: int, message: str
) -> None:
    result = charlm("generate", *arguments)
    assert result.exit_code == code
    assert message in result.output


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        (
            "charlm generate > /dev/full",
            1,
            "Error: The text cannot be written to standard output: No space left on device.",
        ),
        ("charlm generate --length 100000 --seed 1 | head -c 9", 0, ""),
    ],
)
def test_generate_ends_without_a_traceback_when_its_reader_takes_no_more(
    finished_project: Path, command: str, code: int, message: str
) -> None:
    """A full disk gave one."""
    done = subprocess.run(command, shell=True, cwd=finished_project, capture_output=True, text=True, check=False)  # noqa: S602
    _, *errors = done.stderr.splitlines()  # the first line names the model
    assert (done.returncode, "\n".join(errors)) == (code, message)


def test_ui_refuses_a_port_in_use(charlm: Callable[..., Result]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result: Any = charlm("ui", "--port", str(port))
    assert result.exit_code == 1
    assert result.output.endswith(
        f"Error: Port {port} is in use on this machine.\nChoose another: charlm ui --port {port + 1}\n"
    )


@pytest.mark.parametrize(("command", "code"), [(("ui",), 1), (("generate",), 1), (("reproduce", "latest"), 2)])
def test_outside_of_a_project_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], code: int
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, command)
    assert result.exit_code == code
    assert f"Error: No dvc.yaml in {tmp_path} or above it.\n" in result.output
    assert list(tmp_path.iterdir()) == []
