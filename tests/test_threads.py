"""A server's threads: every picture is torch's, whatever the others do meanwhile."""

import contextlib
import copy
import ctypes
import functools
import itertools
import random
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import cutting
import models
import numpy as np
import pytest
import small_component
import torch
from small_component import adapter  # noqa: F401 - a fixture

import ms_controlnet_backend
from ms_controlnet_backend import capture, routes
from ms_controlnet_backend import gate as gates
from ms_controlnet_backend.gate import Gate, gate
from ms_controlnet_backend.signature import Arguments

THREADS = 8
LIMIT = 600
"""Seconds after which somebody waits for ever."""


def pipelines(count):
    """Over the same components, each with what has a state, a scheduler and a tokenizer (where one thread asks for
    padding, the other one has it), of its own; the last one shares nothing."""
    from diffusers import StableDiffusionControlNetImg2ImgPipeline, StableDiffusionControlNetPipeline

    first = models.pipeline(**stateful())
    found = [first]
    for i in range(count - 2):
        cls = (StableDiffusionControlNetPipeline, StableDiffusionControlNetImg2ImgPipeline)[i % 2]
        found.append(cls(**first.components | stateful(), requires_safety_checker=False))
        found[-1].set_progress_bar_config(disable=True)
    return [*found, models.pipeline(**stateful())]


def stateful():
    return dict(scheduler=models.scheduler(), tokenizer=copy.deepcopy(models.tokenizer()))


def request(pipe, size, seed):
    kind = "img2img" if "Img2Img" in type(pipe).__name__ else "txt2img"
    call = models.call_kwargs(kind, num_inference_steps=4 if kind == "img2img" else 2,
                             generator=torch.Generator().manual_seed(seed))  # fmt: skip
    call |= dict(width=size) if kind == "txt2img" else {}
    return pipe(**call).images


def all_at_once(jobs):
    """The jobs' results, in their order; of several that fail, the first one's error."""
    with ThreadPoolExecutor(THREADS) as pool:
        return [future.result(LIMIT) for future in [pool.submit(job) for job in jobs]]


SIZES = (64, 80)
PIPELINES = 4
CLOSE = 1e-4


@pytest.fixture(scope="module")
def expected():
    """(number of the pipeline, size, seed) → torch's picture."""
    pipes = pipelines(PIPELINES)
    keys = itertools.product(range(PIPELINES), SIZES, range(2))
    return {(i, size, seed): request(pipes[i], size, seed) for i, size, seed in keys}


def served(expected, requests, seed, meanwhile=(), around=contextlib.nullcontext):
    """Draws by all threads in a random order, those of each pipeline one after another, as its scheduler wants. Returns
    how far the worst picture is from torch's."""
    pipes = pipelines(PIPELINES)
    locks = [threading.Lock() for _ in pipes]
    shuffle = random.Random(seed)
    wanted = [*expected] * (requests // len(expected))
    shuffle.shuffle(wanted)

    def job(i, size, picture):
        with locks[i], around():
            return abs(request(pipes[i], size, picture) - expected[i, size, picture]).max()

    return max(all_at_once([*meanwhile, *(lambda key=key: job(*key) for key in wanted)])[len(meanwhile) :])


@pytest.mark.parametrize(
    ("requests", "seed"), [(32, 0), *(pytest.param(320, seed, marks=pytest.mark.long) for seed in (1, 2, 3))]
)
def test_every_picture_is_torchs(clean, expected, requests, seed):
    """New sizes among them; each graph is made once."""
    clean.enable(strict=True)
    assert served(expected, requests, seed) < CLOSE
    stats = clean.stats()
    assert not any(s.fallbacks for s in stats.values())
    assert {label: s.compiles for label, s in stats.items()} == {
        "text_encoder": 2, "controlnet": 4, "unet": 4, "vae.decoder": 4, "vae.encoder": 1
    }  # fmt: skip


def test_enabled_and_disabled_meanwhile(clean, expected):
    stop = threading.Event()

    def switch():
        for i in range(8):
            clean.disable() if i % 2 else clean.enable()
            stop.wait(2)
        clean.disable()

    assert served(expected, 32, 4, [switch]) < CLOSE
    assert not clean.stats()


@pytest.mark.long
def test_some_draw_with_torch(clean, expected):
    turn = itertools.count()
    clean.enable(strict=True)
    assert served(expected, 32, 5, around=lambda: clean.using(("mindspore", "torch")[next(turn) % 2])) < CLOSE


def with_torch(same, other):
    """The module that is captured: export has put fake tensors in the place of its weights."""
    with ms_controlnet_backend.using("torch"):
        return same(ONES)


def compiled(same, other):
    """Another one, which has its graph."""
    return other(ONES)


def captures(same, other):
    """Another one, for inputs of a new shape."""
    return other(torch.ones(7, 4))[:1]


class Frames(torch.nn.SiLU):
    def __init__(self, frames):
        super().__init__()
        self.frames = frames

    def forward(self, x):
        self.frames += traceback.extract_stack()
        return super().forward(x)


def not_ours(same, other):
    """No component at all: export has replaced torch.nn.Module's own methods."""
    module, frames = small_component.Component(), []
    module.block.act = Frames(frames)
    output = module(ONES)
    assert frames and not any("torch/fx" in f.filename for f in frames), "it is called by the tracer"
    return output


def disabled(same, other):
    ms_controlnet_backend.disable()
    return same(ONES)


ONES = torch.ones(1, 4)


@pytest.mark.parametrize("work", [with_torch, compiled, captures, not_ours, disabled])
def test_in_the_middle_of_a_capture(clean, monkeypatch, work):
    """Another thread begins to work there."""
    pipes = small_component.pipeline(), small_component.pipeline()
    same, other = (p.component for p in pipes)
    with torch.no_grad():
        expected = same(ONES)
    asked, done, flattened = threading.Semaphore(0), threading.Event(), capture._flattened

    @torch.no_grad()
    def another():
        assert asked.acquire(timeout=60)
        try:
            return work(same, other)
        finally:
            done.set()

    def middle(output):  # the last thing that is traced
        if threading.current_thread() is threading.main_thread() and not asked_for:
            asked_for.append(True)
            asked.release()
            done.wait(1)
        return flattened(output)

    asked_for: list = []
    clean.enable(strict=True)
    with torch.no_grad():
        other(ONES)
        monkeypatch.setattr(capture, "_flattened", middle)
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(another)
            mine = same(ONES)
            theirs = answer.result(LIMIT)
    assert asked_for and type(theirs) is torch.Tensor
    assert torch.allclose(theirs, expected, atol=1e-6)
    assert torch.allclose(mine, expected, atol=1e-6)


@pytest.mark.parametrize("enabled", [True, False])
def test_a_capture_begins_in_the_middle_of_a_call(clean, monkeypatch, enabled):
    """Of the same module by torch, in another thread: the capture waits for it. enabled: when the call began."""
    pipe = small_component.pipeline()
    with torch.no_grad():
        expected = pipe.component(ONES)
    inside, captured, done, flattened = *(threading.Event() for _ in range(3)), capture._flattened

    class Wait(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            if not inside.is_set():
                inside.set()
                captured.wait(1)
            return function(*args, **kwargs or {})

    @torch.no_grad()
    def another():
        try:
            with clean.using("torch") if enabled else contextlib.nullcontext(), Wait():
                return pipe.component(ONES)
        finally:
            done.set()

    def middle(output):
        captured.set()
        assert done.wait(5)
        return flattened(output)

    monkeypatch.setattr(capture, "_flattened", middle)
    if enabled:
        clean.enable(strict=True)
    with torch.no_grad(), ThreadPoolExecutor(1) as pool:
        answer = pool.submit(another)
        assert inside.wait(60)
        clean.enable(strict=True)
        mine = pipe.component(ONES)
        assert torch.allclose(mine, expected, atol=1e-6)
        assert torch.equal(answer.result(60), expected)


@torch.no_grad()
@pytest.mark.parametrize("strict", [True, False])
def test_disabled_while_it_is_called(clean, monkeypatch, strict):
    """Before the call captures: calls are torch's from then on, and nothing of ours is put on its modules."""
    pipe = small_component.pipeline()
    expected = pipe.component(ONES)
    captured = []
    split = Arguments.split

    def disabled(self, *args):
        clean.disable()
        monkeypatch.setattr(capture, "_flattened", captured.append)
        return split(self, *args)

    clean.enable(strict=strict)
    monkeypatch.setattr(Arguments, "split", disabled)
    with ThreadPoolExecutor(1) as pool:
        assert torch.equal(pool.submit(torch.no_grad()(pipe.component), ONES).result(60), expected)
    assert not captured and not routes.interceptor.attached()


def test_a_call_that_never_ends(clean, monkeypatch):
    """One that is older than enable(): torch answers meanwhile."""
    pipe = small_component.pipeline()
    end = threading.Event()
    monkeypatch.setattr(gates, "LIMIT", 0.2)

    class Wait(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            assert end.wait(60)
            return function(*args, **kwargs or {})

    @torch.no_grad()
    def another():
        with Wait():
            return pipe.component(ONES)

    with torch.no_grad(), ThreadPoolExecutor(1) as pool:
        expected = pipe.component(ONES)
        answer = pool.submit(another)
        clean.enable()
        assert torch.equal(pipe.component(ONES), expected)
        end.set()
        assert torch.equal(answer.result(60), expected)
        assert torch.allclose(pipe.component(ONES), expected, atol=1e-6)
    stats = clean.stats()["component"]
    assert (stats.calls, stats.fallbacks) == (1, 1)


@torch.no_grad()
def test_a_block_of_one_thread_ends_before_that_of_another(clean):
    pipe = small_component.pipeline()
    began, ended = threading.Event(), threading.Event()

    def first():
        with clean.using("mindspore", strict=True):
            began.set()
            ended.wait(60)

    with ThreadPoolExecutor(1) as pool:
        blocks = pool.submit(first)
        began.wait(60)
        with clean.using("mindspore", strict=True):
            ended.set()
            blocks.result(60)
            pipe.component(ONES)
            assert clean.stats()["component"].calls == 1
    pipe.component(ONES)
    assert clean.stats()["component"].calls == 1
    clean.enable(strict=True)
    pipe.component(ONES)
    assert clean.stats()["component"].calls == 2


@pytest.mark.parametrize("draw", [random.random, np.random.random, lambda: float(torch.rand(()))])
def test_random_numbers_of_other_threads_are_theirs(monkeypatch, draw):
    """They are drawn while a component is captured, twice: it does not take them for its own, nor give them back."""
    module = cutting.Module(lambda m, x: torch.dropout(m.a(x), 0.5, True))
    component, engine = cutting.build(module)
    export, drawn = torch.export.export, []

    def another():
        with gate.call():  # as in a call of its own, which a capture would wait for
            pass
        for _ in range(3):
            asked.acquire()
            drawn.append(draw())
            done.release()

    def meanwhile(*args, **kwargs):
        exported = export(*args, **kwargs)
        if len(drawn) < 2:
            asked.release(), done.acquire()
        return exported

    asked, done = threading.Semaphore(0), threading.Semaphore(0)
    threading.Thread(target=another, daemon=True).start()
    with gate.call():
        pass
    monkeypatch.setattr(torch.export, "export", meanwhile)
    got = component(torch.ones(64, 4))
    stats = engine.stats()["cut"]
    assert (stats.calls, stats.compiles, stats.fallbacks, stats.parts, len(drawn)) == (1, 1, 0, 0, 2)
    asked.release(), done.acquire()
    assert len(set(drawn)) == 3
    assert 0 < (got == 0).float().mean() < 1


class Interruption(BaseException):
    pass


@pytest.mark.parametrize("waits", ["call", "alone", "holding"])
def test_interrupted_while_it_waits(waits):
    """The thread is inside no more, and nobody waits for it."""
    gate, lock = Gate(), threading.RLock()
    holding = functools.partial(gate.holding, lock)
    ways = {"call": (gate.call, gate.alone), "alone": (gate.alone, gate.call), "holding": (holding, holding)}
    way, other = ways[waits]

    def wait():
        with contextlib.nullcontext() if waits == "call" else gate.call(), way():
            pass

    def all_ways():
        with gate.call(), gate.alone():
            pass
        with gate.call(), holding():
            return True

    with ThreadPoolExecutor(1) as pool:
        with other():
            waiting = pool.submit(wait)
            (thread,) = (t.ident for t in pool._threads)
            while thread not in gate._blocked:
                time.sleep(0.001)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(Interruption))
        with pytest.raises(Interruption):
            waiting.result(10)
        assert not gate._inside and not gate._blocked
        assert pool.submit(all_ways).result(10)


def test_nobody_waits_in_a_circle():
    """The gate alone, by threads that do all that it allows, in any order: who captures is alone."""
    gate, locks = Gate(), [threading.RLock() for _ in range(4)]
    inside, captures = set(), []

    def call(choose, first):  # locks in one order
        me = threading.get_ident()
        with gate.call():
            inside.add(me)
            time.sleep(choose.random() / 2000)
            for _ in range(choose.randrange(4)):
                inside.discard(me)  # where it may wait it is outside
                number = choose.randrange(first, len(locks))
                with gate.holding(locks[number]):
                    if choose.random() < 0.3:
                        with gate.alone():
                            assert not inside, "another thread is inside"
                            captures.append(me)
                            with gate.call(), gate.alone():
                                time.sleep(choose.random() / 1000)
                            assert not inside, "another thread came inside"
                    inside.add(me)
                    if number + 1 < len(locks):
                        call(choose, number + 1)
                        inside.add(me)
            inside.discard(me)

    def work(seed):
        choose = random.Random(seed)
        for _ in range(100):
            call(choose, 0)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        all_at_once([lambda seed=seed: work(seed) for seed in range(THREADS)])
    finally:
        sys.setswitchinterval(interval)
    assert len(captures) > 100 and not inside
