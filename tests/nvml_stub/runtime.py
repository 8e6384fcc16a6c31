"""What nvidia-container-runtime does, for a replay: writes the hook into the container's bundle, and goes on as runc.

runtime.py HOOK [what runc takes]
"""

import json
import os
import sys
from pathlib import Path

_, hook, *arguments = sys.argv
if "create" in arguments:
    path = Path(arguments[arguments.index("--bundle") + 1]) / "config.json"
    config = json.loads(path.read_text())
    config.setdefault("hooks", {}).setdefault("prestart", []).append({"path": hook, "args": [hook, "prestart"]})
    path.write_text(json.dumps(config))
os.execvp("runc", ["runc", *arguments])
