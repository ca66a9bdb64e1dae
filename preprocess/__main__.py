"""`python -m preprocess {shapes, flickr8k, karpathy, coco}`."""

from typing import Annotated

import tyro

from caption.command import parse, run
from preprocess.coco import Coco
from preprocess.flickr8k import Flickr8k
from preprocess.karpathy import Karpathy
from preprocess.shapes import Shapes

SOURCES = (
    Annotated[Shapes, tyro.conf.subcommand("shapes")]
    | Annotated[Flickr8k, tyro.conf.subcommand("flickr8k")]
    | Annotated[Karpathy, tyro.conf.subcommand("karpathy")]
    | Annotated[Coco, tyro.conf.subcommand("coco")]
)


def main(arguments: list[str]) -> None:
    parse(SOURCES, arguments, "python -m preprocess", __doc__).run()


if __name__ == "__main__":
    run(main)
