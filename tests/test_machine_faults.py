"""What the machine does to a command: full disks, odd outputs, two at once, kills."""

import contextlib
import errno
import json
import os
import pathlib
import shutil
import subprocess
import sys
import types

import pytest
import typed_commands
from small_vocabulary import small_vocabulary

from t5patches import cli, errors
from t5patches.cli import evaluation, starting
from t5patches.errors import UserError
from t5patches.interchange import (
    claims,
    json_files,
    records,
    results_files,
    shards,
    tfrecords,
)
from t5patches.run import scripts

PREDICTIONS = [
    {
        "inputs": f"talk {i}",
        "prediction": text,
        "target_tokens": records.encode(small_vocabulary(), text),
        "id": f"{i}",
    }
    for i, text in enumerate(("you fool", "a nice day"))
]
COMMANDS = {
    "annotate": "annotate phrases --phrases rude.txt --predictions old.jsonl "
    "--vocabulary sentencepiece.model --output {}",
    "evaluate": "evaluate --old old.jsonl --new new.jsonl --phrases rude.txt "
    "--output {}",
    "report": "report --results given.json --output {}",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder, with what the commands read."""
    typed_commands.write_vocabulary(tmp_path)
    (tmp_path / "rude.txt").write_text("fool\n")
    for name in ("old", "new"):
        json_files.write_jsonl(tmp_path / f"{name}.jsonl", PREDICTIONS)
    monkeypatch.chdir(tmp_path)
    assert run("evaluate", "given.json") == 0
    (tmp_path / "file").write_text("kept")
    return tmp_path


def run(command, output):
    return cli.main(COMMANDS[command].format(output).split())


def files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# ---- What cannot be written to ----


@pytest.mark.parametrize(
    ("command", "output", "message"),
    [
        ("annotate", "/dev/null", "/dev/null: File exists, but no folder"),
        ("annotate", "file/below", "file/below: Not a directory"),
        ("annotate", "x" * 300, "File name too long"),
        ("evaluate", "x" * 300, "File name too long"),
        ("report", "/dev/null", "/dev/null: File exists, but no folder"),
        ("evaluate", "/dev/null", "is a device or a pipe"),
        ("evaluate", "/dev/full", "is a device or a pipe"),
        ("evaluate", "/dev/stdout", "is a device or a pipe"),
        ("evaluate", "/dev/fd/1", "is a device or a pipe"),
        ("evaluate", "pipe", "pipe: is a device or a pipe"),
        ("evaluate", ".", ".: is a folder"),
        ("evaluate", "file/below.json", "file: File exists, but no folder"),
        ("evaluate", "round", "round.examples.jsonl: Too many levels"),
        ("annotate", "/dev/stdout", "is a device or a pipe"),
    ],
)
def test_odd_outputs(folder, command, output, message, capsys):
    os.mkfifo("pipe")
    os.symlink("round.examples.jsonl", "round.examples.jsonl")
    before, null = files(folder), os.stat("/dev/null")
    assert run(command, output) == 2
    error = capsys.readouterr().err
    assert message in error.splitlines()[-1] and "Traceback" not in error
    assert files(folder) == before
    assert os.stat("/dev/null").st_rdev == null.st_rdev != 0


def test_a_link_stays_and_where_it_leads_is_replaced(folder):
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere/target.json").write_text("old")
    os.symlink("elsewhere/target.json", "link.json")
    assert run("evaluate", "link.json") == 0
    assert os.readlink("link.json") == "elsewhere/target.json"
    assert json.loads((folder / "elsewhere/target.json").read_text())["examples"] == 2
    assert os.listdir("elsewhere") == ["target.json"]


def full_after(monkeypatch, count, number=errno.ENOSPC):
    """Lets the machine refuse the rename number `count` of a command."""
    sync, done = shards._sync, []

    def synced(path, **only):
        done.append(path)
        if len(done) > count:
            raise OSError(number, os.strerror(number))
        sync(path, **only)

    monkeypatch.setattr(shards, "_sync", synced)


@pytest.mark.parametrize(
    ("command", "number"),
    [("annotate", errno.ENOSPC)]
    + [("evaluate", number) for number in (errno.EFBIG, errno.EROFS, errno.EIO)],
)
def test_a_disk_that_is_full(folder, command, number, monkeypatch, capsys):
    """Wherever it comes, the file is named; with room again the command goes on."""
    assert run(command, "whole") == 0
    before, wanted = files(folder), files(folder / "whole")
    capsys.readouterr()
    for count in range(12):
        full_after(monkeypatch, count, number)
        status = run(command, "other")
        monkeypatch.undo()
        monkeypatch.chdir(folder)
        error = capsys.readouterr().err
        if status == 0:
            break
        assert status == 2 and "Traceback" not in error
        said = error.splitlines()[-1]
        assert said.startswith("error: other") and said.endswith(os.strerror(number))
        assert not [path for path in folder.rglob("*.tmp")]
    assert count >= 2 and files(folder / "other") == wanted
    assert {name: files(folder)[name] for name in before} == before


def test_results_and_their_examples_belong_together(tmp_path, monkeypatch):
    path = str(tmp_path / "results.json")
    results_files.write(path, {"run": 1}, [{"example": 1}])
    before = files(tmp_path)
    full_after(monkeypatch, 0)
    with pytest.raises(OSError, match="results.json"):
        results_files.write(path, {"run": 2}, [{"example": 2}])
    assert files(tmp_path) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone mounts")
def test_a_real_disk_that_is_full_or_read_only(folder, capsys):
    os.mkdir("small")
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", "small"]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount")
    try:
        (folder / "small/big").write_bytes(b"x" * 4096 * 3)
        assert run("evaluate", "small/out") == 2
        assert ": No space left on device" in capsys.readouterr().err
        assert os.listdir("small") == ["big"]
        remount = ["mount", "-o", "remount,size=9m", "small"]
        subprocess.run(remount, check=True)
        assert run("evaluate", "small/out") == 0
        subprocess.run([*remount[:2], "remount,ro", "small"], check=True)
        for command in ("annotate", "evaluate"):
            assert run(command, "small/more") == 2
            assert "Read-only file system" in capsys.readouterr().err
    finally:
        subprocess.run(["umount", "small"], check=True)


# ---- What libraries say of it ----


def caused(error, cause):
    error.__cause__ = cause
    return error


def of_tensorflow(name, message):
    return type(name, (Exception,), {})(message)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device", "a/b"), "a/b: No space left on device"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (caused(ValueError("x"), PermissionError(13, "No", "a")), "a: No"),
        (RuntimeError("/a/b; File too large"), "/a/b; File too large"),
        (
            ValueError(
                'RESOURCE_EXHAUSTED: Error writing local file "/m/checkpoint_1.tmp/d/1"'
                + f": {'at length ' * 40}: No space left on device [os_error_code='28']"
            ),
            "/m/checkpoint_1.tmp/d/1: No space left on device",
        ),
        (ImportError("x.so: Too many open files"), "x.so: Too many open files"),
        (MemoryError(), "out of memory; "),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9"), "out of memo"),
        (of_tensorflow("DataLossError", "truncated record at 12"), "truncated record"),
        (FileNotFoundError("no usable folder"), "no usable folder"),
        (ValueError("embedded null byte"), "has a NUL character"),
        (ValueError("of ours"), None),
        (OSError("of ours"), None),
        (KeyError("of ours"), None),
    ],
)
def test_faults_of_the_machine_are_told_from_ours(error, said):
    known = errors.explained(error)
    assert known is None if said is None else said in str(known), known


def test_a_full_file_without_a_name_is_named():
    with contextlib.suppress(OSError), pathlib.Path("/dev/full").open("w") as file:
        file.write("x")
    try:
        pathlib.Path("/dev/full").write_text("x")
    except OSError as error:
        assert "/dev/full: No space" in str(errors.explained(error))


def test_a_name_that_is_not_utf_8():
    try:
        json.dumps("a\udcff", ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        assert "not UTF-8" in str(errors.explained(error))


def test_an_error_of_the_machine_ends_a_command(monkeypatch, capsys):
    def full(argv):
        raise ValueError("/a: No space left on device")

    monkeypatch.setattr(evaluation, "report", full)
    assert cli.main(["report"]) == 2
    assert capsys.readouterr().err == "error: /a: No space left on device\n"


# ---- Standard streams ----


@pytest.mark.parametrize(
    ("streams", "status", "error"),
    [
        (">/dev/full", 2, "error: standard output: No space left on device\n"),
        (">&-", 0, ""),
        ("2>&-", 0, ""),
        ("<&- >&- 2>&-", 0, ""),
        ("2>/dev/full", 0, ""),
        (">/dev/full 2>/dev/full", 2, ""),
    ],
)
def test_streams_that_are_full_or_closed(streams, status, error):
    command = f"'{sys.executable}' -m t5patches --version {streams}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (status, error)


def test_what_is_printed_lands_in_no_file(tmp_path):
    """The first file that is opened would get the number of a closed stream."""
    code = (
        "import os, sys; from t5patches import cli; cli.main(['--version']);"
        f"open({str(tmp_path / 'file')!r}, 'w'); os.write(1, b'x'); os.write(2, b'x')"
    )
    command = f"'{sys.executable}' -c \"$0\" >&- 2>&-"
    subprocess.run(["sh", "-c", command, code], check=True)
    assert (tmp_path / "file").read_bytes() == b""


def test_control_characters_of_names_are_shown(tmp_path, capsys):
    assert cli.main(["report", "--results", "a\x1b[31m"]) == 2
    assert capsys.readouterr().err == "error: a\\x1b[31m: no such file\n"


def test_an_interrupt_while_something_is_imported(tmp_path):
    """An exception there may be lost, or end in an abort."""
    (tmp_path / "slow.py").write_text(
        "import os, signal\n"
        "try: os.kill(os.getpid(), signal.SIGINT)\n"
        "except BaseException: pass"
    )
    code = (  # A shell's background job, as this may be one, ignores interrupts.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from t5patches import cli; cli._dispatch = lambda argv: __import__('slow')\n"
        "cli.main('slow')"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, f"{cli.INTERRUPTED}\n")


# ---- Two at once, kills ----


def test_a_second_command_is_refused(folder, capsys):
    with claims.lock("out/annotated"):
        assert run("annotate", "out") == 2
        said = capsys.readouterr().err
        assert f"another command is writing here (process {os.getpid()} of" in said
        with claims.lock("out/of-another-shard"):
            pass
    assert run("annotate", "out") == 0
    assert run("annotate", "out") == 0
    assert not [name for name in os.listdir("out") if name.startswith(".")]


@pytest.mark.parametrize("script", ["train", "infer", "eval"])
def test_scripts_lock_what_they_write(script, tmp_path):
    folder = {"model_dir": tmp_path, "output_dir": tmp_path}
    task = types.SimpleNamespace(mixture_or_task_name="a:task")
    arguments = {**folder, "dataset_cfg": task, "shard_id": 0, "num_shards": 2}
    with scripts._lock(script, arguments):
        if script == "infer":  # Its shards are commands of their own.
            with scripts._lock(script, {**arguments, "shard_id": 1}):
                pass
        with pytest.raises(UserError, match="another command is writing here"):
            with scripts._lock(script, arguments):
                pass
    assert not list(tmp_path.iterdir())


def test_a_lock_ends_with_its_process(tmp_path):
    code = (
        "import os, sys; from t5patches.interchange import claims\n"
        "with claims.lock(sys.argv[1]): os.kill(os.getpid(), 9)"
    )
    unit = tmp_path / "new" / "unit"
    subprocess.run([sys.executable, "-c", code, str(unit)])
    assert [path.name for path in unit.parent.iterdir()] == [".unit.lock"]
    with claims.lock(unit), pytest.raises(UserError, match="another command"):
        with claims.lock(unit):
            pass
    assert not list(unit.parent.iterdir())
    with pytest.raises(ZeroDivisionError), claims.lock(tmp_path / "failed" / "unit"):
        raise ZeroDivisionError
    assert not (tmp_path / "failed").exists()  # It made it, and nothing in it.


def test_a_file_of_a_killed_claim_is_no_result(tmp_path):
    (tmp_path / ".settings.json.vm-1.tmp").write_text("{")
    claims.claim(tmp_path, {"step": "mine"})
    assert json_files.read_json(tmp_path / claims.SETTINGS) == {"step": "mine"}


def test_temporary_files_of_killed_commands_go(tmp_path, monkeypatch):
    monkeypatch.setattr(starting.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(starting.atexit, "register", lambda *args, **kwargs: None)
    dead = subprocess.Popen(["true"])
    dead.wait()
    for name in (f"{dead.pid}-a", f"{os.getppid()}-b", "of-someone", "x"):
        (tmp_path / f"{starting._TEMPORARY}{name}").mkdir()
    starting._keep_temporary_files_together()
    own = starting.tempfile.gettempdir()
    assert own.startswith(f"{tmp_path}/{starting._TEMPORARY}{os.getpid()}-")
    assert len(os.listdir(tmp_path)) == 4  # One went, one came.
    starting._keep_temporary_files_together()
    assert starting.tempfile.gettempdir() == own


# ---- Power ----


def test_what_is_renamed_is_on_the_disk(tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace

    def synced(number):
        order.append(os.path.basename(os.readlink(f"/proc/self/fd/{number}")))
        fsync(number)

    def replaced(old, new, **where):
        order.append("rename")
        replace(old, new, **where)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    tfrecords.write(tmp_path / "a.tfrecord", [{"inputs": [1]}])
    assert order[0].startswith(".a.tfrecord.") and order[1:] == [
        "rename",
        tmp_path.name,
    ]
    order.clear()
    with shards.atomic_path(tmp_path / "model") as temporary:
        os.makedirs(f"{temporary}/part")
        pathlib.Path(temporary, "part", "weights").write_text("1")
    assert {"weights", "part"} <= set(order[: order.index("rename")])
    shutil.rmtree(tmp_path / "model")
