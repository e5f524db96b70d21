"""The code of a result: its tags and its patch."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from charlm.errors import CharlmError
from charlm.provenance.code import Origin, patch
from charlm.provenance.repository import check_out


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Any]) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("charlm/a.py", "stages/b.py", "data/metrics.json", "params.yaml", "dvc.lock"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("as committed\n")
    run(tmp_path, "git", "init", "--quiet")
    run(tmp_path, "git", "add", "--all")
    run(tmp_path, "git", "commit", "--quiet", "--message=All")
    return tmp_path


def test_what_dvc_writes_makes_no_tree_dirty(repository: Path) -> None:
    assert Origin.here().tags()["charlm.git_dirty"] == "false"
    for name in ("data/metrics.json", "dvc.lock"):
        (repository / name).write_text("as DVC leaves it\n")
    assert Origin.here().tags()["charlm.git_dirty"] == "false"
    assert patch(Path()) == b""
    (repository / "params.yaml").write_text("as `dvc exp run -S` leaves it, and the run has it as a file\n")
    assert Origin.here().tags()["charlm.git_dirty"] == "false"
    (repository / "notes.txt").write_text("neither code nor committed\n")
    assert Origin.here().tags()["charlm.git_dirty"] == "false"
    (repository / "stages/new.py").write_text("new code\n")
    assert Origin.here().tags()["charlm.git_dirty"] == "true"
    assert b"new code" in patch(Path())


def test_origin_names_branch_and_repository_without_a_password(repository: Path, run: Callable[..., Any]) -> None:
    branch = run(repository, "git", "branch", "--show-current").stdout.strip()
    assert Origin.here().tags()["mlflow.source.git.branch"] == branch
    assert "mlflow.source.git.repoURL" not in Origin.here().tags()
    for address, shown in {
        "https://me:secret@example.org/a.git": "https://example.org/a.git",
        "git@example.org:a.git": "git@example.org:a.git",
    }.items():
        run(repository, "git", "config", "remote.origin.url", address)
        assert Origin.here().tags()["mlflow.source.git.repoURL"] == shown
    run(repository, "git", "checkout", "--quiet", "--detach")
    assert "mlflow.source.git.branch" not in Origin.here().tags()


def test_result_of_an_applied_experiment_has_its_name(
    repository: Path, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After `dvc exp apply` and `dvc repro` the run had another name, and none of an experiment."""
    for name, text in {"other": "other params\n", "mine": "my params\n"}.items():
        (repository / "params.yaml").write_text(text)
        run(repository, "git", "commit", "--quiet", "--all", f"--message={name}")
        run(repository, "git", "update-ref", f"refs/exps/aa/{'b' * 38}/{name}", "HEAD")
    assert Origin.here().experiment == "mine"
    (repository / "dvc.lock").write_text("another result\n")
    assert Origin.here().experiment is None
    (repository / "dvc.lock").unlink()
    assert Origin.here().experiment is None
    monkeypatch.setenv("DVC_EXP_NAME", "running")
    assert Origin.here().experiment == "running"


def test_patch_holds_changed_and_new_code_and_leaves_the_index_alone(
    repository: Path, run: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    (repository / "charlm/a.py").write_text("changed, é\n")
    (repository / "stages/new.py").write_text("new\n")
    (repository / "notes.txt").write_text("not code\n")
    (repository / "added.py").write_bytes(b"# caf\xe9, not UTF-8\n")
    run(repository, "git", "add", "added.py")
    for name, value in {"diff.noprefix": "true", "color.ui": "always", "diff.external": "false"}.items():
        run(repository, "git", "config", name, value)
    (repository / "params.yaml").write_text("changed\n")
    made = patch(repository)
    clone = tmp_path_factory.mktemp("clone") / "there"
    run(repository, "git", "clone", "--quiet", str(repository), str(clone))
    (clone / "the.patch").write_bytes(made)
    run(clone, "git", "apply", "the.patch")
    assert (clone / "charlm/a.py").read_text() == "changed, é\n"
    assert (clone / "added.py").read_bytes() == b"# caf\xe9, not UTF-8\n"
    assert (clone / "stages/new.py").read_text() == "new\n"
    assert not (clone / "notes.txt").exists()
    assert (clone / "params.yaml").read_text() == "as committed\n"
    assert run(repository, "git", "diff", "--cached", "--name-only", "--no-ext-diff").stdout == "added.py\n"


def test_outside_git_there_is_no_commit_and_no_patch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Origin.here().tags().keys() <= {"mlflow.user"}
    assert patch(Path()) == b""


def test_a_repository_that_git_does_not_read_is_refused_with_its_words(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkout of another owner, as in a container, used to be recorded without a commit, as if outside git."""
    monkeypatch.chdir(repository / "stages")
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(CharlmError) as refused:
        Origin.here()
    assert refused.value.message.startswith("git cannot read the commit and the patch, without which this run")
    assert f"detected dubious ownership in repository at '{repository}'" in refused.value.message
    assert f"git config --global --add safe.directory {repository}" in refused.value.message
    assert refused.value.message.endswith("then run again. CHARLM_TRACKING=off goes on without a record.")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(CharlmError, match="\ngit cannot be run: "):
        Origin.here()


def test_patch_of_a_subfolder_is_of_that_folder_and_applies_there(
    repository: Path, run: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    (repository / "params.yaml").write_text("changed outside\n")
    (repository / "stages/b.py").write_text("changed outside\n")
    for name in ("a.py", "charlm/new.py", "data/metrics.json"):
        (repository / "charlm" / name).parent.mkdir(exist_ok=True)
        (repository / "charlm" / name).write_text("changed\n")
    made = patch(repository / "charlm")
    folder = check_out(repository, "HEAD", tmp_path_factory.mktemp("clone") / "there")
    (folder / "the.patch").write_bytes(made)
    run(folder / "charlm", "git", "apply", "../the.patch")
    assert (folder / "charlm/a.py").read_text() == (folder / "charlm/charlm/new.py").read_text() == "changed\n"
    assert (folder / "stages/b.py").read_text() == "as committed\n"
    assert not (folder / "charlm/data").exists()


def test_a_commit_is_checked_out_as_it_was_committed_whatever_the_users_settings(
    repository: Path, run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With core.autocrlf a proof used to fail, for every file had other bytes."""
    home = tmp_path / "home"
    (home / "hooks").mkdir(parents=True)
    (home / "hooks/post-checkout").write_text("#!/bin/sh\necho hooked > charlm/a.py\n")
    (home / "hooks/post-checkout").chmod(0o755)
    (home / "attributes").write_text("*.py text eol=crlf\n")
    settings = f"[core]\nautocrlf = true\nhooksPath = {home}/hooks\nattributesFile = {home}/attributes\n"
    (home / ".gitconfig").write_text(settings)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("GIT_CONFIG_GLOBAL")
    folder = check_out(repository / "charlm", "HEAD", tmp_path / "clone")
    assert folder == tmp_path / "clone/charlm"
    assert (folder / "a.py").read_bytes() == (folder.parent / "params.yaml").read_bytes() == b"as committed\n"
    run(tmp_path, "git", "clone", "--quiet", str(repository), "plain")
    assert (tmp_path / "plain/params.yaml").read_bytes() == b"as committed\r\n"  # so the settings do count
    shutil.copy(Path(__file__).parents[3] / ".gitattributes", repository)
    run(repository, "git", "add", "--all")
    run(repository, "git", "commit", "--quiet", "--message=Attributes")
    run(tmp_path, "git", "clone", "--quiet", str(repository), "own")
    assert (tmp_path / "own/params.yaml").read_bytes() == b"as committed\n"


@pytest.mark.parametrize("experiment", ["release-2", "rates-1", "solid-oaks", None])
def test_experiment_is_its_own_name_and_no_sweep_is_guessed_from_it(repository: Path, experiment: str | None) -> None:
    """release-2 was tagged as one of the sweep release."""
    tags = Origin(repository, experiment).tags()
    assert tags.get("charlm.dvc_experiment") == experiment
    assert "charlm.sweep" not in tags
