"""Weights of products in 8 bits: a quarter of their size, with a scale for each 32 of a column.
Only weights are rounded: activations stay float32, so nothing has to be calibrated.
"""

from __future__ import annotations

from pathlib import Path

_BLOCK = 32  # weights that share a scale


def weights_in_8_bits(path: Path) -> None:
    """Rewrite an ONNX file; embeddings, norms and convolutions stay as they are."""
    import onnx
    from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
    from onnxruntime.quantization.onnx_model import ONNXModel

    options = SessionOptions()  # parts of one weight become weights
    options.graph_optimization_level = GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    InferenceSession(path, options)
    model = ONNXModel(onnx.load(path))
    model.replace_gemm_with_matmul()
    quantizer = MatMulNBitsQuantizer(model.model, block_size=_BLOCK, bits=8, is_symmetric=True)
    quantizer.process()
    assert quantizer.model is not None
    quantizer.model.save_model_to_file(str(path))
