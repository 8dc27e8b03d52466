"""A SenseVoiceSmall release -> the files that sherpa-onnx reads: model.onnx (fp32), model.int8.onnx and tokens.txt.

Runs under the interpreter of the peers (bench/peers.txt), as onnx is nothing that steadyvoice needs. The graph is FunASR's own
modules, traced; names, metadata and the way to 8-bit weights are those of the models that sherpa-onnx publishes.
`python bench/sherpa_export.py RELEASE FOLDER`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import onnx
import torch
from funasr import AutoModel
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn

INPUTS = ("x", "x_length", "language", "text_norm")
OPSET = 17  # the first with LayerNormalization as one operator
EVENT_AND_EMOTION = (1, 2)  # rows of `embed`
QUERIES = 4


class Exported(nn.Module):
    """FunASR's embeddings, encoder and CTC head as one function of what sherpa-onnx passes."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.embed, self.encoder, self.head = model.embed, model.encoder, model.ctc.ctc_lo
        self.register_buffer("middle", torch.tensor([EVENT_AND_EMOTION]))

    def forward(self, x: Tensor, x_length: Tensor, language: Tensor, text_norm: Tensor) -> Tensor:
        """float32 [N, T, 560], int32 [N] each -> logits float32 [N, T + 4, 25055]."""
        middle = self.embed(self.middle).expand(x.shape[0], -1, -1)
        queries = (self.embed(language)[:, None], middle, self.embed(text_norm)[:, None])
        encoded, _ = self.encoder(torch.cat([*queries, x], dim=1), x_length + QUERIES)
        logits: Tensor = self.head(encoded)
        return logits


def export(release: Path, folder: Path) -> None:
    """Write the three files."""
    folder.mkdir(parents=True, exist_ok=True)
    auto = AutoModel(model=str(release), device="cpu", disable_update=True, disable_pbar=True, log_level="ERROR")
    batch = (torch.randn(2, 100, 560), torch.tensor([80, 100]).int(), torch.tensor([0, 3]).int(), torch.tensor([14, 15]).int())
    axes = {name: {0: "N"} for name in INPUTS} | {name: {0: "N", 1: "T"} for name in ("x", "logits")}
    fp32, int8 = folder / "model.onnx", folder / "model.int8.onnx"
    with torch.no_grad():
        torch.onnx.export(
            Exported(auto.model).eval(),
            batch,
            str(fp32),
            input_names=list(INPUTS),
            output_names=["logits"],
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,  # the tracer: the other exporter needs packages of its own and fixes T + 4 as a second dimension
        )
    write_tokens(auto, folder / "tokens.txt")
    write_metadata(fp32, metadata(auto))
    quantize_dynamic(str(fp32), str(int8), op_types_to_quantize=["MatMul"], weight_type=QuantType.QUInt8)


def write_tokens(auto: Any, path: Path) -> None:
    """A piece and its id per line."""
    pieces = auto.kwargs["tokenizer"].sp
    lines = (f"{pieces.id_to_piece(number)} {number}\n" for number in range(len(pieces)))
    path.write_text("".join(lines), encoding="utf-8")


def metadata(auto: Any) -> dict[str, Any]:
    """What sherpa-onnx looks for in the model: front end, ids of the queries, size of the vocabulary."""
    frontend, model = auto.kwargs["frontend"], auto.model
    shift, scale = frontend.cmvn.tolist()
    return {
        "model_type": "sense_voice_ctc",
        "version": 2,  # weights as QUInt8
        "vocab_size": len(auto.kwargs["tokenizer"].sp),
        "normalize_samples": 0,  # samples in the range of int16
        "lfr_window_size": frontend.lfr_m,
        "lfr_window_shift": frontend.lfr_n,
        "neg_mean": ",".join(map(str, shift)),
        "inv_stddev": ",".join(map(str, scale)),
        "with_itn": model.textnorm_dict["withitn"],
        "without_itn": model.textnorm_dict["woitn"],
        **{f"lang_{name}": row for name, row in model.lid_dict.items()},
    }


def write_metadata(path: Path, values: dict[str, Any]) -> None:
    """Replace the metadata of an ONNX file."""
    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, {name: str(value) for name, value in values.items()})
    onnx.save(model, str(path))


if __name__ == "__main__":
    export(Path(sys.argv[1]), Path(sys.argv[2]))
