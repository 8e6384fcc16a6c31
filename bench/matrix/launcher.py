"""The launchers that a matrix may name: a row and a class each, and nothing else to add for a new one."""

from __future__ import annotations

AUTO = "auto"
TRIED = ("docker", "local")  # by `auto`, until one can be had
# Name -> module:class, which is a `bench.launch.Provider` that `at(place, gpu=…)` makes.
LAUNCHERS = {
    "docker": "bench.launch.docker:DockerLauncher",
    "local": "bench.launch.local:LocalLauncher",
    "docker-volume": "bench.launch.data_place:VolumeLauncher",  # the data in a volume of the engine
    "docker-image": "bench.launch.data_place:BakedLauncher",  # the data in the image
}
