"""What the scripts of tests/scripts/ call, counted in their syntax trees. test_scripts.py runs them.

The calls are those of upstream's own ControlNet guides and docstrings; what they call often is called often here.
"""

import ast
import re
from pathlib import Path

import pytest

SCRIPTS = {p.stem: p.read_text() for p in sorted((Path(__file__).parent / "scripts").glob("*.py"))}

CALLS = {  # a call as `calls` writes it: in how many scripts at least
    r"\.to\('cuda'\)": 14,
    r"\.to\('cuda', torch\.float16\)": 1,
    r"\.to\('cuda', dtype=": 1,
    r"\.to\(device='cuda', dtype=": 1,
    r"\.to\(torch\.device\(": 2,
    r"\.to\(device": 2,
    r"\.cuda\(\)": 1,
    r"\.enable_model_cpu_offload\(\)": 10,
    r"\.enable_sequential_cpu_offload\(\)": 3,
    r"\.enable_xformers_memory_efficient_attention\(\)": 4,
    r"\.load_lora_weights\(": 9,
    r"\.set_adapters\(": 3,
    r"\.fuse_lora\(": 3,
    r"\.unload_lora_weights\(": 2,
    r"\.load_ip_adapter\(": 3,
    r"\.set_ip_adapter_scale\(": 3,
    r"\.load_textual_inversion\(": 1,
    r"\btorch\.Generator\('cuda'\)": 8,
    r"\btorch\.Generator\(device='cuda'\)": 5,
    r"\btorch\.Generator\(device='cpu'\)": 6,
    r"\btorch\.manual_seed\(0\)": 9,
    r"\bLCMScheduler\.from_config\(": 5,
    r"\bTCDScheduler\.from_config\(": 1,
    r"\bUniPCMultistepScheduler\.from_config\(": 8,
    r"\bDDIMScheduler\.from_config\(": 4,
    r"\bDPMSolverMultistepScheduler\.from_config\(.*use_karras_sigmas=True": 3,
    r"\bEulerAncestralDiscreteScheduler\.from_config\(": 2,
    r"\.from_pretrained\(.*\btorch_dtype=": 8,
    r"\.from_pretrained\(.*[( ]dtype=": 6,
    r"\.from_pretrained\(.*\bvariant='fp16'": 4,
    r"\bControlNetModel\.from_single_file\(": 1,
    r"Pipeline\.from_single_file\(": 1,
    r"Pipeline\.from_pipe\(|PipelineFor\w+\.from_pipe|ForImage2Image\.from_pipe": 3,
    r"Pipeline\(\*\*\w+\.components": 1,
    r"\.save_pretrained\(": 1,
    r"\.encode_prompt\(": 2,
    r"\(.*\bprompt_embeds=": 2,
    r"\(.*\bip_adapter_image=": 3,
    r"\(.*\bip_adapter_image_embeds=": 1,
    r"\(.*\bguess_mode=True": 2,
    r"\(.*\bcontrol_guidance_start=": 2,
    r"\(.*\bcallback_on_step_end=": 1,
    r"\(.*\bcross_attention_kwargs=": 2,
    r"\(.*\bcontrol_mode=": 3,
    r"\btorch\.compile\(": 1,
    r"\btorch\.autocast\('cuda'": 1,
    r"\btorch\.inference_mode\(\)": 1,
    r"\btorch\.randn\(.*device='cuda'": 1,
    r"\btorch\.cuda\.(is_available|empty_cache|synchronize|manual_seed|max_memory_allocated|get_device_name)\(": 4,
    r"\.enable_freeu\(": 1,
    r"\.fuse_qkv_projections\(\)": 1,
    r"\.enable_(attention_)?slicing\(\)": 1,
    r"\.enable_tiling\(\)": 1,
    r"\.to\(memory_format=torch\.channels_last\)": 1,
}
LOADED = {  # classes that scripts load something into, or draw with
    "StableDiffusionControlNetPipeline", "StableDiffusionControlNetImg2ImgPipeline",
    "StableDiffusionControlNetInpaintPipeline", "StableDiffusionXLControlNetPipeline",
    "StableDiffusionXLControlNetImg2ImgPipeline", "StableDiffusionXLControlNetInpaintPipeline",
    "StableDiffusionXLControlNetUnionPipeline", "StableDiffusionXLControlNetUnionImg2ImgPipeline",
    "StableDiffusionXLControlNetUnionInpaintPipeline", "StableDiffusionAdapterPipeline",
    "StableDiffusionXLAdapterPipeline", "ControlNetModel", "ControlNetUnionModel", "T2IAdapter", "MultiAdapter",
    "AutoPipelineForText2Image",
}  # fmt: skip


def calls(text: str) -> list[str]:
    """Every call, without what is called before it in a chain: ``.to('cuda')``, ``torch.manual_seed(0)``."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if isinstance(node.func, ast.Attribute) and not re.fullmatch(r"[\w.]+", called):
                called = f".{node.func.attr}"
            found.append(f"{called}({', '.join(map(ast.unparse, [*node.args, *node.keywords]))})")
    return found


CALLED = {name: calls(text) for name, text in SCRIPTS.items()}


def scripts_that_call(pattern: str) -> set[str]:
    return {name for name, found in CALLED.items() if any(re.search(pattern, call) for call in found)}


def test_there_are_enough():
    assert len(SCRIPTS) >= 30
    assert all(len(text.splitlines()) <= 45 for text in SCRIPTS.values())


@pytest.mark.parametrize("pattern", CALLS)
def test_called(pattern):
    assert len(found := scripts_that_call(pattern)) >= CALLS[pattern], sorted(found)


def test_classes():
    used = {node.id for text in SCRIPTS.values() for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    assert not LOADED - used, LOADED - used


def test_in_combination():
    """Each script makes several of these calls, and each call is made beside several others."""
    made = {pattern: scripts_that_call(pattern) for pattern in CALLS}
    for name in SCRIPTS:
        assert sum(name in scripts for scripts in made.values()) >= 2, name
    for pattern, scripts in made.items():
        beside = {other for other, others in made.items() if other != pattern and scripts & others}
        assert len(beside) >= 2, (pattern, beside)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_users_script(name):
    """It knows nothing of this package, draws in four steps or more, and with guidance."""
    assert not re.search(r"ms.?controlnet|mindspore|\bascend|\bnpu\b|torch_npu", SCRIPTS[name], re.IGNORECASE)
    keywords = [k for node in ast.walk(ast.parse(SCRIPTS[name])) if isinstance(node, ast.Call) for k in node.keywords]
    steps = [k.value.value for k in keywords if k.arg == "num_inference_steps"]
    assert steps and min(steps) >= 4
    assert all(k.value.value > 1 for k in keywords if k.arg == "guidance_scale")
    assert ".save(" in SCRIPTS[name]
