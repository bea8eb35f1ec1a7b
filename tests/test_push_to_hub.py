"""What is pushed to the hub can be opened from it: against a hub on this machine, in a process of
its own, which reads ``HF_ENDPOINT`` when it starts.
"""

import os
import subprocess
import sys

import pytest
from hub_stub import served
from source import ROOT

from fourm.resources import demo_model_folder

PUSH = """
from fourm import AnyToAnyPipeline
pipe = AnyToAnyPipeline.from_pretrained({folder!r})
for _ in range(2):
    print(pipe.push_to_hub("someone/scenes", private=True, token="hf_mine", half=True))
"""
OPEN = """
from fourm import AnyToAnyPipeline
pipe = AnyToAnyPipeline.from_pretrained("someone/scenes")
print(pipe({"caption": "a red cube"}, "rgb", steps=1)["rgb"].images[0].size)
"""


def run(code: str, hub, home) -> subprocess.CompletedProcess:
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    env.pop("HF_HUB_OFFLINE", None)
    return subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True, timeout=300
    )


@pytest.mark.slow
def test_a_pipeline_goes_to_the_hub_and_comes_back(tmp_path):
    with served() as hub:
        pushed = run(PUSH.format(folder=str(demo_model_folder())), hub, tmp_path / "a")
        assert pushed.returncode == 0, pushed.stderr
        assert pushed.stdout.split()[0].startswith(f"{hub.url}/someone/scenes/")
        files = hub.repositories["someone/scenes"]
        assert {"README.md", "config.json", "model.safetensors", "generation.yaml"} <= set(files)
        assert 'from_pretrained("someone/scenes")' in files["README.md"].decode()
        assert hub.tokens == {"Bearer hf_mine"}  # of the one who pushes
        opened = run(OPEN, hub, tmp_path / "b")
        assert opened.returncode == 0, opened.stderr
        assert opened.stdout.split("\n")[0] == "(64, 64)"
        missing = run(OPEN.replace("scenes", "nothing"), hub, tmp_path / "c")
        assert "someone/nothing is no folder and cannot be had from the hub" in missing.stderr
