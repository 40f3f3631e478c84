"""One runtime on one model, for runtimes.rs: `rival.py RUNTIME MODEL SIDE THREADS`.

Images of more than 2048² pixels are cut into tiles of 512² without overlap, as the memory of a usual computer cannot
hold what these runtimes make of them in one piece; no margins are computed twice, which is to their advantage.

Prints the multiplications of the network, then for every line on standard input the seconds of one run, and at the end
the peak memory of the process in bytes.
"""

import resource
import sys
import time
from collections.abc import Callable

import numpy as np
import onnx
from onnx import numpy_helper, shape_inference

LARGEST, TILE = 2048, 512


def input_shape(model: onnx.ModelProto, side: int) -> tuple[int, ...]:
    """Of an image, or of a stack of planes of a quarter of the side: the same as in runtimes.rs."""
    stack = len(model.graph.input[0].type.tensor_type.shape.dim) == 5
    return (1, 1, -(-side // 32), side // 4, side // 4) if stack else (1, 1, side, side)


def multiplications(model: onnx.ModelProto, shape: tuple[int, ...]) -> int:
    """Of all convolutions, by their definition."""
    for axis, length in zip(model.graph.input[0].type.tensor_type.shape.dim, shape, strict=True):
        axis.dim_value = length
    graph = shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in [*graph.value_info, *graph.output]}
    shapes[graph.input[0].name] = list(shape)
    weights = {w.name: list(w.dims) for w in graph.initializer}
    total = 0
    for node in graph.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            # A transposed convolution multiplies every input pixel, another one every output pixel, with a kernel.
            pixels = shapes[node.output[0] if node.op_type == "Conv" else node.input[0]]
            total += int(np.prod(weights[node.input[1]])) * int(np.prod(pixels[2:]))
    return total


def onnxruntime_run(path: str, image: np.ndarray, threads: int) -> Callable[[], None]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: image})


def torch_run(path: str, image: np.ndarray, threads: int) -> Callable[[], None]:
    import torch
    import torch.nn.functional as f

    torch.set_num_threads(threads)
    graph = onnx.load(path).graph
    constants = {w.name: torch.from_numpy(numpy_helper.to_array(w).copy()) for w in graph.initializer}
    given = torch.from_numpy(image)

    def convolution(call: Callable, x: list, a: dict) -> torch.Tensor:
        pads = a.get("pads", [0] * (2 * (x[0].ndim - 2)))
        half = len(pads) // 2
        assert pads[:half] == pads[half:], "uneven padding"
        extra = {"output_padding": a["output_padding"]} if "output_padding" in a else {}
        return call(x[0], x[1], x[2], stride=a.get("strides", 1), padding=pads[:half], **extra)

    operators = {
        "Conv": lambda x, a: convolution(f.conv3d if x[0].ndim == 5 else f.conv2d, x, a),
        "ConvTranspose": lambda x, a: convolution(f.conv_transpose2d, x, a),
        "Relu": lambda x, a: torch.relu(x[0]),
        "LeakyRelu": lambda x, a: f.leaky_relu(x[0], a["alpha"]),
        "MaxPool": lambda x, a: (f.max_pool3d if x[0].ndim == 5 else f.max_pool2d)(
            x[0], a["kernel_shape"], a["strides"]
        ),
        "Resize": lambda x, a: f.interpolate(x[0], scale_factor=2, mode="nearest"),
        "Concat": lambda x, a: torch.cat(x, a["axis"]),
        "Add": lambda x, a: x[0] + x[1],
        "Tanh": lambda x, a: torch.tanh(x[0]),
    }
    nodes = [
        (n.op_type, list(n.input), n.output[0], {a.name: onnx.helper.get_attribute_value(a) for a in n.attribute})
        for n in graph.node
    ]
    last_use = {name: step for step, (_, inputs, _, _) in enumerate(nodes) for name in inputs}

    def run() -> None:
        values = {graph.input[0].name: given}
        with torch.inference_mode():
            for step, (op, inputs, output, attributes) in enumerate(nodes):
                arguments = [values.get(name, constants.get(name)) for name in inputs if name]
                values[output] = operators[op](arguments, attributes)
                for name in inputs:
                    if last_use[name] == step:
                        values.pop(name, None)

    return run


def main() -> None:
    runtime, path, side, threads = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    shape = input_shape(onnx.load(path), side)
    tiles = (side // TILE) ** 2 if side > LARGEST else 1
    given = input_shape(onnx.load(path), TILE if tiles > 1 else side)
    image = np.random.default_rng(1).random(given, dtype=np.float32)
    run = {"onnxruntime": onnxruntime_run, "torch": torch_run}[runtime](path, image, threads)
    print(multiplications(onnx.load(path), shape), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(tiles):
            run()
        print(time.perf_counter() - start, flush=True)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, flush=True)


if __name__ == "__main__":
    main()
