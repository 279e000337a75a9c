"""One ONNX operator on ONNX Runtime's CPU provider, for the scripts beside this one."""

import numpy as np
import onnxruntime
from onnx import helper


def run(operator: str, *inputs: np.ndarray, opset: int = 21, **attributes: object) -> np.ndarray:
    """The first result of `operator`."""
    types = [helper.np_dtype_to_tensor_dtype(x.dtype) for x in inputs]
    names = [f"x{i}" for i in range(len(inputs))]
    graph = helper.make_graph(
        [helper.make_node(operator, names, ["y"], **attributes)],
        "one",
        [helper.make_tensor_value_info(n, t, x.shape) for n, t, x in zip(names, types, inputs, strict=True)],
        [helper.make_tensor_value_info("y", types[0], None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, dict(zip(names, inputs, strict=True)))[0]
