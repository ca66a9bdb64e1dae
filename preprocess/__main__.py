"""`python -m preprocess {shapes, strings, flickr8k, flickr30k, karpathy, coco, folder, merge, info, verify}`."""

if __name__ == "__main__":
    import caption.interrupt  # noqa: F401  before the imports that take seconds

from caption.config.cli import parse, run
from preprocess.coco import Coco
from preprocess.flickr import Flickr8k, Flickr30k
from preprocess.folder import Folder
from preprocess.info import Info
from preprocess.karpathy import Karpathy
from preprocess.merge import Merge
from preprocess.shapes import Shapes
from preprocess.strings import Strings
from preprocess.verify import Verify

# The subcommands are the names of the classes in lower case.
COMMANDS = Shapes | Strings | Flickr8k | Flickr30k | Karpathy | Coco | Folder | Merge | Info | Verify


def main(arguments: list[str]) -> None:
    parse(COMMANDS, arguments, "python -m preprocess", __doc__).run()


if __name__ == "__main__":
    run(main)
