"""Weights of products in 8 bits: a quarter of the size, each block of a column with a scale of its
own. Only weights are rounded: activations stay float32, so nothing has to be calibrated.
"""

from __future__ import annotations

from pathlib import Path

_BLOCK = 32  # weights that share a scale


def weights_in_8_bits(path: Path) -> None:
    """Rewrite an ONNX file."""
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(onnx.load(path), block_size=_BLOCK, bits=8, is_symmetric=True)
    quantizer.process()
    quantizer.model.save_model_to_file(str(path), use_external_data_format=False)
