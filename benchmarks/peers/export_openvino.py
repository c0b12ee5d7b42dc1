"""Write a checkpoint in the format of OpenVINO, with its tokenizer; weights in float16.

export_openvino.py MODEL FOLDER
"""

import sys

from openvino import save_model
from openvino_tokenizers import convert_tokenizer
from optimum.exporters.openvino import main_export
from optimum.intel import OVConfig
from transformers import AutoTokenizer


def main(model: str, folder: str) -> None:
    """Export the model's parts and the tokenizer."""
    main_export(model, folder, task="image-text-to-text", ov_config=OVConfig(dtype="fp16"))
    tokenizer = AutoTokenizer.from_pretrained(model)
    there, back = convert_tokenizer(tokenizer, with_detokenizer=True)
    save_model(there, f"{folder}/openvino_tokenizer.xml")
    save_model(back, f"{folder}/openvino_detokenizer.xml")


if __name__ == "__main__":
    main(*sys.argv[1:])
