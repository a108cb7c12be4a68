"""Which device is used, and what a machine lacks: on a machine that has no NPU, with MindSpore's side played."""

import re
import types
from dataclasses import replace

import pytest
import torch
from ms_controlnet_backend.compat import ascend, ascend_software, mindspore_runtime

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


DRIVER = """Version=25.0.rc1.1
ascendhal_version=7.35.23
compatible_version=[V100R001C19],[V100R001C20]
compatible_version_fw=[6.4.0,6.4.99],[7.0.0,7.7.99]
package_version=25.0.rc1.1
"""
"""Of ``/usr/local/Ascend/driver/version.info``, as public reports show it."""


@pytest.fixture
def root(tmp_path):
    """A machine's folders: an NPU, CANN 8.5, a driver and its firmware."""
    files = {
        "dev/davinci0": "",
        "cann/compiler/version.info": "package_name=Ascend-cann\nVersion=8.5.0.1\n",
        "usr/local/Ascend/driver/version.info": DRIVER,
        "usr/local/Ascend/firmware/version.info": "Version=7.7.0.1.231\nfirmware_version=1.0\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def missing(root, sourced=True, error="", supported=("8.3", "8.5"), **known):
    environment = {"ASCEND_HOME_PATH": str(root / "cann")} if sourced else {}
    software = ascend_software.installed(ascend.cann_home(environment), root)
    return ascend.advice(environment, error, replace(software, goes_with=list(supported)), root, **known)


def test_nothing_is_missing(root):
    assert missing(root) == []
    (root / "dev" / "davinci0").unlink()
    assert missing(root, seen=2) == [] and "no NPU" in missing(root)[0]  # under another name, in a container


@pytest.mark.parametrize(
    "sourced, library, supported, words",
    [
        (False, "libge_runner.so", ["8.5"], "CANN is not in reach.*install the CANN toolkit.*CANN 8.5"),
        (True, "libge_runner.so", ["8.5"], "lacks libge_runner.so: reinstall"),
        (True, "libascend_hal.so", ["8.5"], "driver's libascend_hal.so is not found"),
        (True, None, ["9.0", "9.1"], "CANN 8.5.0.1 does not go with this MindSpore: .* 9.0, 9.1"),
        (True, "libfoo.so", ["8.5"], "could not load its Ascend plugin: .*libfoo.so"),
    ],
)
def test_advice(root, sourced, library, supported, words):
    (found,) = missing(root, sourced, PLUGIN.format(library) if library else "", supported)
    assert re.search(words, found), found


def test_set_env_that_was_not_sourced(root):
    file = root / ascend.SET_ENV.lstrip("/")
    file.parent.mkdir(parents=True)
    file.touch()
    assert missing(root, False, PLUGIN.format("libge_runner.so"), []) == [
        f"CANN is not in reach (libge_runner.so is not found): run: source {ascend.SET_ENV}"
    ]


@pytest.mark.parametrize(
    "firmware, fits",
    [("7.7.0.1.231", True), ("7.7.99.5", True), ("6.4.12", True), ("7.0.0", True), ("6.5.0", False),
     ("7.8.0.1", False), ("6.3.9", False)],
)  # fmt: skip
def test_driver_and_firmware(root, firmware, fits):
    (root / "usr/local/Ascend/firmware/version.info").write_text(f"Version={firmware}\n")
    found = missing(root)
    assert not found if fits else f"firmware {firmware} does not go with driver 25.0.rc1.1" in found[0], found


def test_versions(root):
    """Where the driver's installer was given another folder, too."""
    (root / "etc").mkdir()
    (root / "etc/ascend_install.info").write_text("UserName=HwHiAiUser\nDriver_Install_Path_Param=/opt/npu\n")
    assert ascend_software.installed(None, root).lines()[1:] == ["driver        not found", "firmware      not found"]
    (root / "opt").mkdir()
    (root / "usr/local/Ascend").rename(root / "opt/npu")
    lines = ascend_software.installed(str(root / "cann"), root).lines()
    assert lines[0].startswith("cann          8.5.0.1 (MindSpore goes with ") and " 8.5" in lines[0]
    assert lines[1:] == [
        "driver        25.0.rc1.1 (goes with firmware 6.4.0 to 6.4.99 or 7.0.0 to 7.7.99)",
        "firmware      7.7.0.1.231",
    ]


def test_this_machine():
    """Without an NPU MindSpore names the library it misses, and the advice comes of it."""
    if mindspore_runtime.available("Ascend"):
        pytest.skip("there is an NPU")
    found = ascend.here(ascend.installed())
    assert any("no NPU" in what for what in found) and any("CANN" in what for what in found)


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
