"""Processes forked from one that draws pictures."""

import multiprocessing
import subprocess
import sys
import traceback
from pathlib import Path

import models
import parity
import pytest
import torch

import ms_controlnet_backend
from ms_controlnet_backend.errors import Forked

FORK = multiprocessing.get_context("fork")
IDS = torch.arange(7)[None]
SECONDS = 120


def _answer(pipe, function, *args):
    torch.set_num_threads(1)  # torch's own threads did not come along either
    try:
        pipe.send(function(*args))
    except Exception as error:  # noqa: BLE001 - whatever it is
        pipe.send((type(error), str(error), traceback.format_exc()))


def in_a_child(function, *args):
    """What the function returns in a forked process, or (type, message, …) of what it raises."""
    here, there = FORK.Pipe()
    child = FORK.Process(target=_answer, args=(there, function, *args))
    child.start()
    try:
        assert here.poll(SECONDS), "the child hangs"
        answer = here.recv()
        child.join(SECONDS)
        assert child.exitcode == 0
        return answer
    finally:
        child.kill()


@torch.no_grad()
def encode(pipe):
    return pipe.text_encoder(IDS)[0].numpy()


def encode_on_torch(pipe):
    with ms_controlnet_backend.using("torch"):
        return encode(pipe)


def close(one, other):
    return abs(one - other).max() < 1e-5


def _forked_first():
    pipe = models.pipeline()
    ms_controlnet_backend.enable(pipe, strict=True)
    assert close(in_a_child(encode, pipe), encode_on_torch(pipe))
    assert close(encode(pipe), encode_on_torch(pipe))


def test_forked_before_the_first_call():
    """As a server does that loads its pipeline once for all its workers. (In a new process: in that of the tests
    MindSpore has computed long since.)"""
    command = [sys.executable, "-c", "import test_forks; test_forks._forked_first()"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10 * SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("strict", [False, True])
def test_forked_after_it(clean, strict):
    """It would wait for ever."""
    pipe = models.pipeline()
    expected = encode(pipe)
    clean.enable(pipe, strict=strict)
    assert close(encode(pipe), expected)
    kind, message, _ = in_a_child(encode, pipe)
    assert kind is Forked and "spawn" in message and "before the first call" in message
    assert close(in_a_child(encode_on_torch, pipe), expected)
    assert close(encode(pipe), expected)
    assert clean.stats()["text_encoder"].fallbacks == 0


def test_what_is_on_the_device(clean):
    pipe = models.pipeline()
    clean.enable(pipe, strict=True)
    with torch.no_grad():
        down, middle = pipe.controlnet(
            torch.ones(1, 4, 8, 8), 3, torch.ones(1, 7, 16), torch.ones(1, 3, 16, 16), return_dict=False
        )
    assert in_a_child(lambda: float(middle.sum()))[0] is Forked
    assert in_a_child(lambda: (middle * 2).shape)[0] is Forked


class Prompts(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, i):
        return torch.full((3,), i)


def test_a_data_loader(clean):
    """Whose workers do not touch the pipeline."""
    pipe = models.pipeline()
    clean.enable(pipe, strict=True)
    expected = pipe(**models.call_kwargs()).images
    loader = torch.utils.data.DataLoader(Prompts(), num_workers=2, multiprocessing_context="fork", timeout=SECONDS)
    for _ in range(2):
        assert [batch[0, 0].item() for batch in loader] == [0, 1, 2, 3]
        assert parity.relative_error(*(torch.tensor(x) for x in (pipe(**models.call_kwargs()).images, expected))) < 1e-6
