"""Show, Attend and Tell (Xu et al., 2015): image captioning with visual attention.

from caption import Captioner

captioner = Captioner.load("runs/flickr8k-soft/best.pt")
print(captioner.caption("photo.jpg", beam_size=5))
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from caption.captioner import Captioner
    from caption.describe import Caption

__all__ = ["Caption", "Captioner"]
__version__ = "1.0.0"


def __getattr__(name: str) -> Any:
    """Import PyTorch only when it is needed: `import caption` takes no time."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"caption.{'captioner' if name == 'Captioner' else 'describe'}"), name)
