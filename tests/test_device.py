"""Which device is used, and what a machine lacks: on a machine that has no NPU, with MindSpore's side played."""

import re
import types

import pytest
import torch
from ms_controlnet_backend.compat import ascend, mindspore_runtime

from ms_controlnet_backend.errors import DeviceUnavailable, UnknownDevice, UnknownRewrite
from ms_controlnet_backend.runtime.target import WITHOUT, Target, target
from ms_controlnet_backend.runtime.weights import WeightStore


@pytest.mark.parametrize(
    "name, device",
    [
        ("cpu", "CPU"),
        ("CPU:0", "CPU"),
        ("npu", "Ascend"),
        ("ascend:0", "Ascend:0"),
        ("Ascend:3", "Ascend:3"),
        (None, None),
    ],
)
def test_names(name, device):
    assert mindspore_runtime.numbered_device(name) == device
    assert mindspore_runtime.canonical_device(name) == (device and device.split(":")[0])


@pytest.mark.parametrize("name", ["tpu", "ascend:", "ascend:x", "ascend:-1", "ascend:1:2", ""])
def test_no_names(name):
    with pytest.raises(UnknownDevice, match="known devices: ascend, cpu, npu"):
        mindspore_runtime.numbered_device(name)


@pytest.mark.parametrize(
    "environment, devices, number",
    [
        ({}, 8, None),
        ({"ASCEND_DEVICE_ID": "5", "LOCAL_RANK": "2", "RANK_ID": "9"}, 8, 5),
        ({"LOCAL_RANK": "2", "RANK_ID": "10"}, 8, 2),  # torchrun, accelerate
        ({"RANK_ID": "10"}, 8, 2),  # msrun, second machine
        ({"RANK_ID": "3", "LOCAL_RANK": ""}, None, 3),
    ],
)
def test_the_environment_names_the_device(environment, devices, number):
    assert ascend.device_number(environment, devices) == number


@pytest.fixture
def machine(monkeypatch):
    """A MindSpore that has two NPUs; what it is told is in ``told``."""
    told = []
    fake = types.SimpleNamespace(
        set_device=lambda *args: told.append(("device", *args)),
        runtime=types.SimpleNamespace(set_memory=lambda **kwargs: told.append(("memory", kwargs))),
        device_context=types.SimpleNamespace(ascend=types.SimpleNamespace(device_count=lambda: 2)),
        hal=types.SimpleNamespace(is_available=lambda device: True),
    )
    for name in (*ascend.VARIABLES, ascend.MEMORY):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(mindspore_runtime, "mindspore", lambda: fake)
    fake.told = told
    return fake


def test_select(machine, monkeypatch):
    assert mindspore_runtime.select_device("Ascend:1") == "Ascend"
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv(ascend.MEMORY, "30GB")
    assert mindspore_runtime.select_device(None) == "Ascend"
    assert mindspore_runtime.select_device("npu:1") == "Ascend"  # the script's word goes before the environment's
    assert [t for t in machine.told if t[0] == "device"] == [("device", "Ascend", n) for n in (1, 0, 1)]
    assert ("memory", {"max_size": "30GB"}) in machine.told


def test_select_what_is_not_there(machine, monkeypatch):
    with pytest.raises(DeviceUnavailable, match="no NPU 2: this machine has 2"):
        mindspore_runtime.select_device("Ascend:2")
    monkeypatch.setenv("ASCEND_DEVICE_ID", "first")
    with pytest.raises(UnknownDevice, match="ASCEND_DEVICE_ID='first'"):
        mindspore_runtime.select_device("ascend")

    def refuse(*args):
        raise RuntimeError("The 'mindspore.set_device' can not be modified.\nmore")

    machine.set_device = refuse
    with pytest.raises(
        DeviceUnavailable, match="does not take NPU 1: The 'mindspore.set_device' can not be modified.$"
    ):
        mindspore_runtime.select_device("Ascend:1")


PLUGIN = "Load dynamic library: libmindspore_ascend.so.2 failed. {}: cannot open shared object file: No such file\n"


@pytest.fixture
def root(tmp_path):
    """A machine's folders: two NPUs, and CANN 8.5."""
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "davinci0").touch()
    home = tmp_path / "cann"
    (home / "compiler").mkdir(parents=True)
    (home / "compiler" / "version.info").write_text("package_name=Ascend-cann\nVersion=8.5.0.1\n")
    return tmp_path


def test_nothing_is_missing(root):
    assert ascend.advice({"ASCEND_HOME_PATH": str(root / "cann")}, "", ["8.3", "8.5"], root) == []


@pytest.mark.parametrize(
    "sourced, library, supported, words",
    [
        (False, "libge_runner.so", ["8.5"], "CANN is not in reach.*install the CANN toolkit.*CANN 8.5"),
        (True, "libge_runner.so", ["8.5"], "lacks libge_runner.so: reinstall"),
        (True, "libascend_hal.so", ["8.5"], "driver's libascend_hal.so is not found"),
        (True, None, ["9.0", "9.1"], "CANN 8.5 in .* does not go with this MindSpore: .* 9.0, 9.1"),
        (True, "libfoo.so", ["8.5"], "could not load its Ascend plugin: .*libfoo.so"),
    ],
)
def test_advice(root, sourced, library, supported, words):
    environment = {"ASCEND_HOME_PATH": str(root / "cann")} if sourced else {}
    error = PLUGIN.format(library) if library else ""
    (found,) = ascend.advice(environment, error, supported, root)
    assert re.search(words, found), found


def test_set_env_that_was_not_sourced(root):
    file = root / ascend.SET_ENV.lstrip("/")
    file.parent.mkdir(parents=True)
    file.touch()
    assert ascend.advice({}, PLUGIN.format("libge_runner.so"), [], root) == [
        f"CANN is not in reach (libge_runner.so is not found): run: source {ascend.SET_ENV}"
    ]


def test_this_machine():
    """Without an NPU MindSpore names the library it misses, and the advice comes of it."""
    if mindspore_runtime.available("Ascend"):
        pytest.skip("there is an NPU")
    assert any("no NPU" in what for what in ascend.here()) and any("CANN" in what for what in ascend.here())


def test_what_is_left_out(monkeypatch):
    monkeypatch.setenv(WITHOUT, "merge_duplicates, attention")
    assert target("Ascend").without == {"merge_duplicates", "attention"} and target("Ascend", "").without == set()
    with pytest.raises(UnknownRewrite, match="rewrite attention for CPU; known: drop_no_ops, drop_unread"):
        target("CPU")


def test_a_weight_on_a_device_of_its_own_is_uploaded_again():
    mindspore_runtime.select_device("cpu")
    t = torch.nn.Parameter(torch.ones(3, 4), requires_grad=False)
    weight = WeightStore(Target("CPU", own_memory=True)).get(t, "t", (3, 4))
    assert not weight.shared and weight.own
    t.fill_(2)
    assert weight.parameter.asnumpy().max() == 1
    assert weight.refresh() and weight.parameter.asnumpy().min() == 2
    assert not weight.refresh()
