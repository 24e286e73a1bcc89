"""`dino-detr convert`: a published checkpoint becomes a checkpoint folder."""

import argparse
from pathlib import Path

from ..outputs import claim_folder
from ..runs.names import CONFIG_JSON


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = verbs.add_parser("convert", help="turn a checkpoint with detrex's names into a checkpoint folder")
    verb.set_defaults(run=run)
    verb.add_argument("state_dict", metavar="STATE_DICT", help=".safetensors, or a torch file that needs no pickle")
    verb.add_argument("--reference-config", required=True, metavar="CONFIG.json", help="the reference's values")
    verb.add_argument("--output", required=True, metavar="DIR", help="folder to write to")


def run(options: argparse.Namespace) -> None:
    from ..hub import load_reference_checkpoint
    from ..image_processing_dino_detr import DinoDetrImageProcessor

    if (Path(options.output) / CONFIG_JSON).exists():
        raise FileExistsError(f"{options.output} holds a checkpoint already; choose another --output")
    claim_folder(options.output)
    load_reference_checkpoint(options.state_dict, options.reference_config).save_pretrained(options.output)
    DinoDetrImageProcessor().save_pretrained(options.output)
    print(f"{options.state_dict} -> {options.output}")
