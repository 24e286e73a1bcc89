"""The model card of an export: what it takes, how well it agrees, and how to run it without this package."""

import json
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData
from jinja2 import Environment, FileSystemLoader

from ..export.runtime import FACTS, MANIFEST, SMALLEST, runner_options
from ..export.verification import Verification
from ..runs.history import read_mapping
from ..runs.names import CONFIG_JSON, PREPROCESSOR_JSON

_HERE = Path(__file__).parent
_RUNTIMES = {"torch": "torch.export", "onnx": "ONNX Runtime", "openvino": "OpenVINO"}
_PACKAGES = {"torch": "torch", "onnx": "onnxruntime", "openvino": "openvino"}
_RUN = {
    "torch": """graph = torch.export.load(f"{{folder}}/{file}").module()
inputs = {{name: torch.from_numpy(value){cast} for name, value in inputs.items()}}
with torch.no_grad():
    outputs = {{name: value.float().numpy() for name, value in graph(**inputs).items()}}""",
    "onnx": """session = onnxruntime.InferenceSession(f"{{folder}}/{file}")
outputs = dict(zip((output.name for output in session.get_outputs()), session.run(None, inputs)))""",
    "openvino": """# said here, for where the CPU has bf16, OpenVINO takes it by itself
options = {{"INFERENCE_PRECISION_HINT": "{hint}"}}
graph = openvino.Core().compile_model(f"{{folder}}/{file}", "CPU", options)
outputs = {{output.get_any_name(): value for output, value in graph(inputs).items()}}""",
}


def export_card(folder: Path, name: str, repo_id: str | None, license: str | None) -> str:
    """
    Return the text of an export's card.

    Args:
        name: of the card.
        repo_id: where on the Hub it goes; None: its usage names the folder.
        license: of the weights, as the Hub names it.
    """
    facts, manifest = read_mapping(folder / FACTS), read_mapping(folder / MANIFEST)
    labels = read_mapping(folder / CONFIG_JSON)["id2label"]
    names = [labels[str(index)] for index in range(len(labels))]
    values = facts | {
        "names": json.dumps(names, ensure_ascii=False),
        "source": repo_id or folder.resolve().name,
        "pushed": repo_id is not None,
    }
    component = manifest["components"]["model"]
    versions = component["metadata"].get("packages", {})
    card = ModelCard.from_template(
        ModelCardData(
            library_name=facts["format"] if facts["format"] != "torch" else "pytorch",
            pipeline_tag="object-detection",
            tags=["dino-detr", "object-detection", facts["format"]],
            model_name=name,
            license=license,
        ),
        template_path=str(_HERE / "export_card.md"),
        name=name,
        runtime=_RUNTIMES[facts["format"]],
        packages=f"{_PACKAGES[facts['format']]}, numpy and pillow" + (", and huggingface_hub" if repo_id else ""),
        classes=names,
        size=facts["image_size"],
        smallest=SMALLEST,
        code=_code(values, component["file"], read_mapping(folder / PREPROCESSOR_JSON)),
        format=facts["format"],
        precision=facts["quantize"] or "float32",
        verification=str(Verification(**facts["verification"])),
        measured=facts.get("measurement"),
        license_text=license or "their author has not said",
        versions=", ".join(f"{package} {version}" for package, version in versions.items()),
        **{key: values[key] for key in ("source", "pushed", "with_preprocessing", "with_postprocessing")},
    )
    return str(card)


def _code(facts: dict, file: str, processor: dict) -> str:
    """Return Python that runs the graph on a picture."""
    half = {"bf16": ".to(torch.bfloat16)", "fp16": ".half()"}.get(facts["quantize"] or "", "")
    cast = f' if name != "pixel_values" else torch.from_numpy(value){half}' if half else ""
    hint = runner_options(facts["format"], facts["quantize"]).get("config", {}).get("INFERENCE_PRECISION_HINT")
    size = processor["size"]
    environment = Environment(loader=FileSystemLoader(_HERE), trim_blocks=False, autoescape=False)
    return environment.get_template("export_use.py.j2").render(
        facts,
        imports=f"import {_PACKAGES[facts['format']]}",
        size=facts["image_size"],
        shortest=size.get("shortest_edge"),
        longest=size.get("longest_edge"),
        mean=processor["image_mean"],
        std=processor["image_std"],
        dtype="uint8" if facts["with_preprocessing"] else "float32",
        run=_RUN[facts["format"]].format(file=file, cast=cast, hint=hint),
    )
