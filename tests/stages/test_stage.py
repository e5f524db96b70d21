"""Code that is edited while a stage runs."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import stages
from charlm.errors import CharlmError


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of a project's stages/, loaded, in the current folder."""
    path = tmp_path / "stages/a_stage_for_a_test.py"
    path.parent.mkdir()
    path.write_text("A = 1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(path.parent)
    monkeypatch.delitem(sys.modules, path.stem, raising=False)
    importlib.import_module(path.stem)
    return path


def test_code_that_stays_as_it_was_is_let_pass(module: Path) -> None:
    before = stages.code_digests()
    assert list(before) == [module]
    stages.require_unchanged(before)


@pytest.mark.parametrize("edit", [lambda path: path.write_text("A = 2\n"), Path.unlink], ids=["changed", "removed"])
def test_code_that_changed_is_named(module: Path, edit: object) -> None:
    """Code that is loaded after the digests were taken, as a model's file is, used to escape."""
    loaded = sys.modules.pop(module.stem)
    before = stages.code_digests()
    sys.modules[module.stem] = loaded
    assert callable(edit)
    edit(module)
    with pytest.raises(CharlmError) as err:
        stages.require_unchanged(before)
    assert err.value.message == (
        "stages/a_stage_for_a_test.py changed while this stage ran: its result is not what the code there gives now.\n"
        "Run `dvc repro` again; DVC has not recorded this one."
    )


def test_error_tells_the_way_back_from_edited_params_in_the_workspace_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failed `dvc exp run -S` the next run took its values: nobody said that they stay in params.yaml."""
    workspace, copy = tmp_path / "project", tmp_path / "project/.dvc/tmp/exps/tmp1"
    for folder in (workspace, copy):
        folder.mkdir(parents=True)
        subprocess.run(["git", "init", "--quiet", folder], check=True)
        for name in ("params.yaml", "dvc.yaml"):
            (folder / name).write_text("a: 1\n")
        subprocess.run("git add *.yaml && git commit --quiet --message=Params", shell=True, check=True, cwd=folder)  # noqa: S602
    monkeypatch.setenv("DVC_ROOT", str(workspace))

    def failure(folder: Path) -> str:
        monkeypatch.chdir(folder)
        return CliRunner().invoke(failing, []).output

    @stages.stage
    def failing() -> None:
        raise CharlmError("It failed.")

    assert failure(workspace) == "Error: It failed.\n"
    for folder in (workspace, copy):
        (folder / "params.yaml").write_text("a: 2\n")
    assert failure(workspace).endswith("undo that: git checkout params.yaml && dvc repro\n")
    assert failure(copy) == "Error: It failed.\n"
