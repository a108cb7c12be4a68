"""What a script raises from a signal handler, or into another thread, ends its call wherever it falls, and is
forgotten: the next call is compiled as if nothing had been."""

import ctypes
import functools
import inspect
import signal
import threading
import time

import models
import pytest
import torch

import ms_controlnet_backend
from ms_controlnet_backend.errors import Refused, refusal
from ms_controlnet_backend.interruptions import raise_if_scripts


class Late(Exception):
    pass


def late(*_):
    raise Late


def nested(number, frame):
    signal.signal(number, signal.SIG_DFL)  # so that nobody finds the handler by asking for it
    deeper(frame)


def deeper(frame):
    raise TimeoutError("late")


class Handler:
    def method(self, number, frame):
        raise RuntimeError("late")

    def __call__(self, *, code=0):
        raise Late


HANDLERS = {
    "function": late,
    "method": Handler().method,
    "partial": functools.partial(lambda name, number, frame: late(), "x"),
    "deeper": nested,
    "any arguments": lambda *args, **kwargs: late(),
}


@pytest.fixture
def alarm():
    before = signal.getsignal(signal.SIGALRM)
    yield functools.partial(signal.signal, signal.SIGALRM)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def waited():
    """Until the alarm's handler raises."""
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    for _ in range(10_000):
        time.sleep(0.001)


def as_library_code_does():
    try:
        waited()
    except Exception as error:
        raise ValueError("it does not work") from error


@pytest.mark.parametrize("run", [waited, as_library_code_does])
@pytest.mark.parametrize("handler", HANDLERS)
def test_a_handlers_exception_is_the_scripts(alarm, handler, run):
    alarm(HANDLERS[handler])
    with pytest.raises((Late, TimeoutError, RuntimeError)) as caught:
        try:
            run()
        except Exception as error:
            refusal(error)
    assert not isinstance(caught.value, Refused)


def inject(kind, thread):
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(kind))


@pytest.mark.parametrize("kind", [Late, TimeoutError])
def test_another_threads_exception_is_the_scripts(kind):
    def busy():
        threading.Timer(0.05, inject, (kind, threading.get_ident())).start()
        ends = time.monotonic() + 20
        while time.monotonic() < ends:
            pass

    with pytest.raises(kind):
        try:
            busy()
        except Exception as error:
            refusal(error)


def given_its_frame(frame):
    raise KeyError(frame.f_lineno)


def raised_here():
    raise Late


@pytest.mark.parametrize("code", [
    lambda: 1 / 0, lambda: [][1], lambda: torch.ones(2) @ torch.ones(3),
    lambda: given_its_frame(inspect.currentframe()), raised_here, lambda: int("x"), lambda: {}["x"],
])  # fmt: skip
def test_an_error_of_what_runs_is_not(code):
    """It is answered by torch."""
    try:
        code()
    except Exception as error:
        raise_if_scripts(error)
        assert isinstance(refusal(error), Refused)


IDS = torch.arange(7)[None]


def enabled(clean):
    module = models.text_encoder()
    clean.disable()
    clean.enable(models.pipeline(text_encoder=module))
    return module


@torch.no_grad()
def called(module):
    return module(IDS)[0]


def by_signal(kind, seconds):
    signal.setitimer(signal.ITIMER_REAL, seconds)
    return lambda: signal.setitimer(signal.ITIMER_REAL, 0)


def by_thread(kind, seconds):
    timer = threading.Timer(seconds, inject, (kind, threading.get_ident()))
    timer.start()
    return timer.cancel


@pytest.mark.parametrize("raised", [by_signal, by_thread])
def test_a_first_call_is_interrupted_anywhere(clean, alarm, raised, caplog):
    """While it is captured, lowered, compiled, run."""
    expected = called(models.text_encoder())
    for _ in range(2):  # the first imports MindSpore
        module = enabled(clean)
        started = time.perf_counter()
        called(module)
        seconds = time.perf_counter() - started
    alarm(late)
    interrupted, moments = 0, 14
    for i in range(moments):
        module = enabled(clean)
        try:
            stop = raised(Late, seconds * (i + 0.5) / moments)
            try:
                called(module)
            finally:
                stop()
            time.sleep(0.001)  # what is on its way arrives
        except Late:
            interrupted += 1
        for _ in range(2):
            assert (called(module) - expected).abs().max() < 1e-5
        stats = ms_controlnet_backend.stats()["text_encoder"]
        assert stats.fallbacks == 0 and stats.calls >= 2 and stats.compiles >= 1, i
    assert interrupted > moments / 2, "most moments are those of a first call"
    assert "stays on torch" not in caplog.text


def test_a_run_is_interrupted(clean, alarm):
    """The picture drawn after it is the one drawn before it, and by the same graphs."""
    pipe = models.pipeline()
    clean.enable(pipe)
    draw = lambda steps: pipe(**models.call_kwargs(num_inference_steps=steps)).images  # noqa: E731
    expected = draw(4)
    compiles = {label: s.compiles for label, s in clean.stats().items()}
    alarm(late)
    for seconds in (0.02, 0.05, 0.1, 0.15):
        signal.setitimer(signal.ITIMER_REAL, seconds)
        with pytest.raises(Late):
            draw(1000)
        assert abs(draw(4) - expected).max() == 0
    assert {label: s.compiles for label, s in clean.stats().items()} == compiles
    assert not any(s.fallbacks for s in clean.stats().values())
