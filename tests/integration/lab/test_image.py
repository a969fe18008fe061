"""What the operator image is made of: its locks, and the client that asks the agent."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.image import lock


def test_image_locks_are_the_closure_of_our_distributions() -> None:
    for file, text in lock.locks().items():
        assert file.read_text() == text, f"{file.name} is out of date: run `python -m deploy.image.lock`"
        assert "://" not in text


def test_selecting_from_a_lock_keeps_every_python_range_and_refuses_gaps() -> None:
    text = "a==1 ; x < '3' \\\n    --hash=sha256:1\na==2 ; x >= '3' \\\n    --hash=sha256:2\nb==1 \\\n    --hash=sha256:3\n"
    assert lock.selected(text, {"a"}) == text[: text.index("b==1")]
    with pytest.raises(LookupError, match="zz"):
        lock.selected(text, {"a", "zz"})


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is missing")
    program = tmp_path_factory.mktemp("ask") / "yoban-ask"
    source = Path(lock.__file__).parent / "yoban_ask.c"
    flags = ["-std=gnu17", "-static", "-Os", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["gcc", *flags, "-o", program, source], check=True)
    return program


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[tuple[Path, list[bytes], list[bytes]]]:
    """A socket that answers with what the test put into the second list, after recording the question."""
    path, asked, answers = tmp_path / "agent.sock", list[bytes](), list[bytes]()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    question = b""
                    while not question.endswith(b"\n"):
                        question += connection.recv(100)
                    asked.append(question)
                    for piece in answers:
                        connection.sendall(piece)

        thread = threading.Thread(target=serve)
        thread.start()
        yield path, asked, answers
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(5)


@pytest.mark.parametrize(
    ("answer", "code", "message"),
    [
        ([b"ok\n"], 0, ""),
        ([b"o", b"k", b"\n"], 0, ""),
        ([b"missing\n"], 1, "missing"),
        ([b"error the store is down\n"], 255, "error the store is down"),
        ([b"missing-not\n"], 255, "missing-not"),
        ([b"\n"], 255, ""),
        ([b"ok"], 255, "went away"),
        ([], 255, "went away"),
        ([b"x" * 70000], 255, "too long"),
    ],
)
def test_only_two_words_are_not_a_fault(
    client: Path, agent: tuple[Path, list[bytes], list[bytes]], answer: list[bytes], code: int, message: str
) -> None:
    path, asked, answers = agent
    answers.extend(answer)
    done = subprocess.run([client, path, "archive", "000000010000000000000001", ""], capture_output=True, text=True)
    assert done.returncode == code
    assert message in done.stderr
    assert done.stdout == ""
    assert asked == [b"archive\t000000010000000000000001\t\n"]


def test_no_agent_and_bad_arguments_are_faults(client: Path, tmp_path: Path) -> None:
    for words in ([], ["only-socket"], [str(tmp_path / "absent"), "v"], ["x" * 200, "v"], [str(tmp_path), "a\tb"]):
        done = subprocess.run([client, *words], capture_output=True, text=True)
        assert done.returncode == 255
        assert done.stderr.startswith("yoban-ask: ")
