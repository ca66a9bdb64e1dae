"""`python -m preprocess {shapes, strings, flickr8k, flickr30k, karpathy, coco, folder, merge, info, verify}`."""

from typing import Annotated

import tyro

from caption.config.cli import parse, run
from preprocess.coco import Coco
from preprocess.flickr8k import Flickr8k
from preprocess.flickr30k import Flickr30k
from preprocess.folder import Folder
from preprocess.info import Info
from preprocess.karpathy import Karpathy
from preprocess.merge import Merge
from preprocess.shapes import Shapes
from preprocess.strings import Strings
from preprocess.verify import Verify

COMMANDS = (
    Annotated[Shapes, tyro.conf.subcommand("shapes")]
    | Annotated[Strings, tyro.conf.subcommand("strings")]
    | Annotated[Flickr8k, tyro.conf.subcommand("flickr8k")]
    | Annotated[Flickr30k, tyro.conf.subcommand("flickr30k")]
    | Annotated[Karpathy, tyro.conf.subcommand("karpathy")]
    | Annotated[Coco, tyro.conf.subcommand("coco")]
    | Annotated[Folder, tyro.conf.subcommand("folder")]
    | Annotated[Merge, tyro.conf.subcommand("merge")]
    | Annotated[Info, tyro.conf.subcommand("info")]
    | Annotated[Verify, tyro.conf.subcommand("verify")]
)


def main(arguments: list[str]) -> None:
    parse(COMMANDS, arguments, "python -m preprocess", __doc__).run()


if __name__ == "__main__":
    run(main)
