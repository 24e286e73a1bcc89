"""The start of a script that finds neither this package nor most of its dependencies."""

STRANGER = """
import sys

HIDDEN = {"dino_detr", "timm", "triton", "scipy", "sklearn", "pycocotools", "evaluate", "datasets", "accelerate"}

class Hiding:
    "A finder that does not find what is hidden: to importlib it is not installed."

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in HIDDEN else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
for name in HIDDEN:
    assert name not in sys.modules
    try:
        __import__(name)
    except ImportError:
        continue
    raise AssertionError(f"{name} can be imported")
"""
