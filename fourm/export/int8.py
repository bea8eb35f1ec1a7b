"""Weights of products in 8 bits: a quarter of their size, with a scale for each 32 of a column.

Where they are used, rows are rounded to 8 bits too, each 32 numbers by their own largest, so
nothing has to be calibrated; with rows left as they are a decoder step takes five times as long,
as all weights become floats for it.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

_BLOCK = 32  # weights that share a scale
_INTEGERS = 4  # onnxruntime's number for products of 8-bit integers


def weights_in_8_bits(path: Path) -> None:
    """Rewrite an ONNX file; embeddings, norms and convolutions stay as they are."""
    import onnx
    from onnxruntime import (
        GraphOptimizationLevel,  # type: ignore[attr-defined]
        InferenceSession,
        SessionOptions,  # type: ignore[attr-defined]
    )
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
    from onnxruntime.quantization.onnx_model import ONNXModel

    # it tells of every node that it looks at
    logging.getLogger("onnxruntime.quantization.matmul_nbits_quantizer").setLevel(logging.WARNING)
    options = SessionOptions()  # parts of one weight become weights
    options.graph_optimization_level = GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    InferenceSession(path, options)
    model = ONNXModel(onnx.load(path))
    model.replace_gemm_with_matmul()
    quantizer = MatMulNBitsQuantizer(
        model.model, block_size=_BLOCK, bits=8, is_symmetric=True, accuracy_level=_INTEGERS
    )
    quantizer.process()
    made: Any = quantizer.model
    made.save_model_to_file(str(path))
