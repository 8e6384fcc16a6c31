"""What nvidia-container-runtime-hook does, for a replay: an OCI prestart hook that puts the stub into the container.

hook.py LIBRARY prestart        stdin: the container's state, as the OCI runtime specification has it
"""

import json
import shutil
import sys
from pathlib import Path

bundle = Path(json.load(sys.stdin)["bundle"])
config = json.loads((bundle / "config.json").read_text())
variables = dict(line.split("=", 1) for line in config["process"]["env"])
if variables.get("NVIDIA_VISIBLE_DEVICES", "void") not in ("", "void", "none"):
    root = bundle / config["root"]["path"]
    library = root / "usr/lib/libnvidia-ml.so.1"
    shutil.copyfile(sys.argv[1], library)
    library.chmod(0o755)
