"""The examples run as a newcomer would run them, and the benchmark beside its peers at a small size."""

import json
import os
import socket
import subprocess
import sys

import pytest

import moejit

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def environment(**more):
    return {**os.environ, "PYTHONPATH": os.path.join(ROOT, "python"), "MOEJIT_LIBRARY": moejit._library.library().path,
            "MOEJIT_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", **more}


def run(*arguments, **more):
    done = subprocess.run([sys.executable, *arguments], env=environment(**more), capture_output=True, text=True,
                          timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def example(name):
    return os.path.join(ROOT, "examples", "python", name)


def test_quick_start(cpu):
    pytest.importorskip("numpy")
    text = run(example("quick_start.py"))
    assert "same bits: True" in text and "refused: w2 has shape" in text
    assert float(text.split("relative error: ")[1].split()[0]) < 1e-5


def test_transformers_model(cpu):
    pytest.importorskip("torch")
    pytest.importorskip("transformers", minversion="5.0")
    text = run(example("transformers_model.py"))
    assert "layers.0.mlp.experts: moejit" in text and "moejit    :" in text


@pytest.mark.parametrize("ranks", [2, 3] if os.environ.get("MOEJIT_TEST_LEVEL", "1") != "1" else [2])
def test_expert_parallel(cpu, ranks):
    torch = pytest.importorskip("torch")
    if not torch.distributed.is_available():
        pytest.skip("this torch has no torch.distributed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    workers = [subprocess.Popen([sys.executable, example("expert_parallel.py")], stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True,
                                env=environment(RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_RANK=str(rank),
                                                MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)))
               for rank in range(ranks)]
    for worker in workers:
        text, _ = worker.communicate(timeout=300)
        assert worker.returncode == 0 and "differs from one process by" in text, text


def test_what_is_missing_is_said():
    pytest.importorskip("torch")
    env = {name: value for name, value in environment().items() if name != "RANK"}
    for arguments, words in (([example("expert_parallel.py")], "torchrun --nproc-per-node"),
                             ([os.path.join(ROOT, "bench", "peers.py"), "--layers", "mixtral"], "nor one of qwen3-30b-a3b")):
        done = subprocess.run([sys.executable, *arguments], env=env, capture_output=True, text=True, timeout=100,
                              check=False)
        assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_peers(cpu, tmp_path):
    pytest.importorskip("torch")
    text = run(os.path.join(ROOT, "bench", "peers.py"), "--layers", "8:2:64:48", "--tokens", "1,5", "--seconds", "0.2",
               "--samples", "5", "--device", "cpu", "--json", str(tmp_path / "out.json"), "--plot",
               str(tmp_path / "out.svg"))
    report = json.loads((tmp_path / "out.json").read_text())
    rows = {(row["peer"], row["tokens"]): row for row in report["rows"]}
    for peer in ("moejit", "eager"):
        for tokens in (1, 5):
            row = rows[peer, tokens]
            assert row["median_s"] > 0 and row["error"] < 0.02 and row["floor_s"] > 0, row
    assert report["limits"]["read_bytes_per_s"] > 0 and "of limit" in text
    assert (tmp_path / "out.svg").read_text().startswith("<svg")
