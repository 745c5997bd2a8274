"""From a CNNtoRNN to the ONNX file that onnx_model.py reads, in float32 or int8; needs onnx and onnxruntime.

The encoder with the decoder's start, and the decoder's step, are exported apart, quantised apart, and then joined to
one graph, an `If` whose branches share their weights.
"""

import contextlib
import copy
import logging
import warnings
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, compose, helper, numpy_helper
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch.nn.utils.fusion import fuse_conv_bn_eval

from captioning.data.images import check_unreadable, load_image, to_pixels
from captioning.deploy.onnx_model import ATTENTION, DESCRIPTION, STATE
from captioning.files import beginning, replace_file

OPSET = 18
CALIBRATION_BATCH = 16  # images
HALVES = ("start", "step")


def export_onnx(network, metadata, image_size, path, *, int8_path="", calibration=None):
    """Write a CNNtoRNN as an ONNX file, and as another in int8.

    metadata:    {name: text} that the files carry (captioning.metadata.dump_metadata)
    int8_path:   file of the int8 form; "" = none
    calibration: CalibrationImages that its encoder's activations are measured on
    """
    # Beside the file: a killed process would leave it in the system's folder for good.
    with beginning(Path(path), folder=True) as folder:
        export_halves(network, image_size, folder)
        save_joined(folder, "", metadata, path)
        if int8_path:
            quantize_halves(folder, calibration)
            save_joined(folder, "_int8", metadata, int8_path)


def save_joined(folder, suffix, metadata, path):
    """Join folder/{start,step}<suffix>.onnx to the file `path`."""
    start, step = (onnx.load(folder / f"{half}{suffix}.onnx") for half in HALVES)
    with replace_file(path) as temporary:
        onnx.save(join_graphs(start, step, metadata), temporary)


class Start(torch.nn.Module):
    """images (B, 3, S, S) -> their descriptions (B, W) and the decoder's state before the first word, as tensors."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        embeddings, descriptions = self.network.encoder.describe(images)
        return torch.cat(descriptions, dim=1), *self.network.decoder.start(embeddings)


class Step(torch.nn.Module):
    """tokens (N,) and a state -> log-probabilities (N, V), with attention its weights (N, P), and the next state."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, tokens, *state):
        decoder = self.network.decoder
        if not decoder.has_attention:
            log_probs, state = decoder.step(tokens, state)
            return log_probs, *state
        log_probs, attention, state = decoder.step_and_attend(tokens, state)
        return log_probs, attention, *state


@contextlib.contextmanager
def quiet():
    """Keep the exporter's progress reports and advice to its own authors from the terminal."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


class Clip(torch.nn.Module):
    """ReLU6 as one operator; torch.export traces nn.ReLU6 as several, through all of their shape rules."""

    def forward(self, maps):
        return maps.clamp(0, 6)


def fold_norms(network):
    """Return a copy of a network in evaluation whose convolutions do the work of the BatchNorm that follows them.

    Only within nn.Sequential, where the order of modules is that of the computation. Outputs are the same but for
    rounding. onnxruntime would fold them afterwards, but the export of MobileNetV2 takes half as long without them.
    """
    network = copy.deepcopy(network)
    for parent in list(network.modules()):
        for name, module in parent.named_children():
            if isinstance(module, torch.nn.ReLU6):
                setattr(parent, name, Clip())
        if isinstance(parent, torch.nn.Sequential):
            for place, (module, norm) in enumerate(pairwise(parent)):
                if isinstance(module, torch.nn.Conv2d) and isinstance(norm, torch.nn.BatchNorm2d):
                    parent[place], parent[place + 1] = fuse_conv_bn_eval(module, norm), torch.nn.Identity()
    return network


def export_halves(network, image_size, folder):
    """Write the two halves of a CNNtoRNN as ONNX: folder/start.onnx and folder/step.onnx, simplified."""
    network = fold_norms(network.cpu().eval())
    images = torch.zeros(2, 3, image_size, image_size)  # two, as a batch of one would be taken for a constant
    with torch.inference_mode():
        _, *state = Start(network)(images)
    names = [f"{STATE}{number}" for number in range(len(state))]
    attention = [ATTENTION] if network.decoder.has_attention else []
    images_dim, rows = torch.export.Dim("images"), torch.export.Dim("rows")
    halves = {
        "start": (Start(network), (images,), ({0: images_dim},), ["images"], [DESCRIPTION, *names]),
        "step": (
            Step(network),
            (torch.ones(2, dtype=torch.long), *(part.clone() for part in state)),
            ({0: rows}, tuple({0: rows} for _ in state)),
            ["tokens", *names],
            ["log_probs", *attention, *(f"next_{name}" for name in names)],
        ),
    }
    for name, half in halves.items():
        export_module(*half, folder / f"{name}.onnx")


def export_module(module, inputs, shapes, input_names, output_names, path):
    """Write a torch module as an ONNX file, constants folded.

    inputs: tensors, their first dimension 2 or more; shapes: their dynamic dimensions, as torch.export takes them
    """
    with quiet():
        torch.onnx.export(
            module.eval(),
            inputs,
            path,
            input_names=input_names,
            output_names=output_names,
            dynamic_shapes=shapes,
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        quant_pre_process(str(path), str(path), skip_symbolic_shape=True)


class CalibrationImages:
    """Batches of pixels by the name of the input; onnxruntime's calibration takes them one by one, then None.

    Raises ValueError if more than a small share of the images cannot be read; fewer are named and left out.
    """

    def __init__(self, paths, transform):
        self.paths, self.transform, failed = [], transform, []
        for path in paths:
            try:
                load_image(path)
                self.paths.append(path)
            except ValueError as error:
                failed.append(str(error))
        check_unreadable(failed, len(self.paths) + len(failed), "images")
        self.rest = self.batches()

    def batches(self):
        """Yield {"images": (B, 3, S, S) float32} of all images."""
        for start in range(0, len(self.paths), CALIBRATION_BATCH):
            chunk = self.paths[start : start + CALIBRATION_BATCH]
            yield {"images": np.stack([to_pixels(load_image(path), **self.transform) for path in chunk])}

    def get_next(self):
        """Return the next batch, None after the last."""
        return next(self.rest, None)


def correct_biases(source, target, calibration):
    """Write an ONNX graph with the biases that its convolutions need once their weights are in int8.

    Rounding the weights of a channel moves its mean output, by the rounding errors times the mean input: in a depthwise
    convolution, which sums nine products, by more than its noise. The bias takes that back. The padding's zeros are
    not considered.
    Source: Nagel et al. 2019 (https://arxiv.org/abs/1906.04721), "bias correction"
    """
    model = onnx.load(source)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    means = mean_channels(model, dict.fromkeys(node.input[0] for node in convolutions), calibration)
    for node in convolutions:
        name, weight = node.input[0], weights[node.input[1]]
        if len(node.input) == 2:  # the export leaves a bias of zeros out, which an untrained encoder has
            zeros = np.zeros(weight.dims[0], np.float32)
            bias = model.graph.initializer.add()
            bias.CopyFrom(numpy_helper.from_array(zeros, f"{weight.name}_bias"))
            node.input.append(bias.name)
        else:
            bias = weights[node.input[2]]
        error = rounding_error(numpy_helper.to_array(weight)).sum(axis=(2, 3))  # (O, I / groups)
        (groups,) = [part.i for part in node.attribute if part.name == "group"] or [1]
        inputs = means[name].reshape(groups, -1).repeat(len(error) // groups, axis=0)  # (O, I / groups)
        moved = numpy_helper.to_array(bias) + (error * inputs).sum(axis=1)
        bias.CopyFrom(numpy_helper.from_array(moved.astype(np.float32), bias.name))
    onnx.save(model, target)


def rounding_error(weight):
    """Return weights (O, I, h, w) less what int8 makes of them, by output channel, as `quantize_static` rounds them."""
    scale = np.abs(weight).max(axis=(1, 2, 3), keepdims=True) / 127
    scale[scale == 0] = 1
    return weight - np.round(weight / scale) * scale


def mean_channels(model, names, calibration):
    """Return {name: (C,) mean over calibration images and their places} of values (B, C, h, w) of an ONNX model."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    model.graph.initializer.append(numpy_helper.from_array(np.array([2, 3]), "places"))
    del model.graph.output[:]
    for name in names:
        model.graph.node.append(helper.make_node("ReduceMean", [name, "places"], [f"{name}_mean"], keepdims=0))
        model.graph.output.append(helper.make_tensor_value_info(f"{name}_mean", TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    batches = [session.run(None, batch) for batch in calibration.batches()]
    means = [np.concatenate(values).mean(axis=0) for values in zip(*batches, strict=True)]
    return dict(zip(names, means, strict=True))


def quantize_halves(folder, calibration):
    """Write folder/start_int8.onnx and folder/step_int8.onnx from the float32 halves."""
    with quiet():
        # The layers that compute the decoder's first state are quantised dynamically, like the decoder. The description
        # stays in float32, since the familiarity compares it with that of the float32 model.
        correct_biases(folder / "start.onnx", folder / "start_corrected.onnx", calibration)
        quantization.quantize_static(
            folder / "start_corrected.onnx",
            folder / "start_static.onnx",
            calibration,
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Add", "Clip", "GlobalAveragePool", "ReduceMean", "Gemm", "MatMul"],
            nodes_to_exclude=only_for(DESCRIPTION, onnx.load(folder / "start.onnx").graph),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        for source, target in (("start_static", "start_int8"), ("step", "step_int8")):
            quantization.quantize_dynamic(
                folder / f"{source}.onnx",
                folder / f"{target}.onnx",
                op_types_to_quantize=["LSTM", "MatMul", "Gather"],
                weight_type=quantization.QuantType.QInt8,
                extra_options={"MatMulConstBOnly": True},
            )
    step = onnx.load(folder / "step_int8.onnx")
    tie_embedding(step.graph)
    onnx.save(step, folder / "step_int8.onnx")


def tie_embedding(graph):
    """Let the embedding of a quantised step read the output matrix where that is the same one transposed, as tied.

    onnxruntime quantises the two apart: of 2,579 words, 0.8 of 6.4 MB.
    """
    stored = {tensor.name for tensor in graph.initializer}
    for lookup in [node for node in graph.node if node.op_type == "Gather"]:
        name = lookup.input[0].removesuffix("_quantized")
        transposed = f"{name}_Transposed"
        if f"{transposed}_quantized" not in stored:
            continue
        (dequantize,) = (node for node in graph.node if lookup.output[0] in node.input)
        # (E, V) int8 and tokens (N, 1) -> (E, N, 1) -> (N, 1, E), the scale being one number.
        nodes = [
            helper.make_node("Gather", [f"{transposed}_quantized", lookup.input[1]], [f"{name}_columns"], axis=1),
            helper.make_node(
                "DequantizeLinear",
                [f"{name}_columns", f"{transposed}_scale", f"{transposed}_zero_point"],
                [f"{name}_floats"],
            ),
            helper.make_node("Transpose", [f"{name}_floats"], list(dequantize.output), perm=[1, 2, 0]),
        ]
        place = list(graph.node).index(lookup)
        kept = [node for node in graph.node if node not in (lookup, dequantize)]
        del graph.node[:]
        graph.node.extend([*kept[:place], *nodes, *kept[place:]])
        unused = {value for node in (lookup, dequantize) for value in node.input}
        unused -= {value for node in graph.node for value in node.input}
        tensors = [tensor for tensor in graph.initializer if tensor.name not in unused]
        del graph.initializer[:]
        graph.initializer.extend(tensors)


def only_for(name, graph):
    """Return the names of the nodes that the output of this name needs, and no other output."""
    maker = {output: node for node in graph.node for output in node.output}

    def needed(names):
        found = {}
        while names:
            node = maker.get(names.pop())
            if node is not None and node.name not in found:
                found[node.name] = node
                names += node.input
        return found.keys()

    return sorted(needed([name]) - needed([output.name for output in graph.output if output.name != name]))


def join_graphs(start, step, metadata):
    """Return the ModelProto of a captioner.

    start:    ModelProto, images -> description, state
    step:     ModelProto, tokens, state -> log_probs, perhaps attention, next state
    metadata: {name: text} that the file carries
    """
    drop_notes(start.graph)
    drop_notes(step.graph)
    begin, advance = as_branch(start, "start/"), as_branch(step, "step/")
    description, outputs = start.graph.output[0], [start.graph.output[0], *step.graph.output]
    # Branches have the same outputs: a step describes no image, the beginning says no word and has not looked anywhere.
    add_empty(advance, description, 0, "step/")
    for place, output in enumerate(step.graph.output[: len(outputs) - len(start.graph.output)], start=1):
        add_empty(begin, output, place, "start/")

    shared = share_weights([begin, advance])
    names = [value.name for value in outputs]
    node = helper.make_node("If", ["begin"], names, then_branch=begin, else_branch=advance)
    inputs = [helper.make_tensor_value_info("begin", TensorProto.BOOL, []), *start.graph.input, *step.graph.input]
    graph = helper.make_graph([node], "captioner", inputs, outputs, initializer=shared)
    versions = {opset.domain: opset for model in (start, step) for opset in model.opset_import}
    model = helper.make_model(graph, opset_imports=list(versions.values()), ir_version=start.ir_version)
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    return model


def drop_notes(graph):
    """Take out what the exporter notes beside nodes and values: stack traces with the paths of this machine."""
    for one in [*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer]:
        for field in ("doc_string", "metadata_props"):
            if hasattr(one, field):  # not every version of onnx has notes beside weights
                one.ClearField(field)


def add_empty(graph, output, place, prefix):
    """Give a graph an output without rows at `place`, where the other branch has `output`."""
    shape, name = [0, output.type.tensor_type.shape.dim[1].dim_value], f"{prefix}{output.name}"
    none = helper.make_tensor(f"no_{output.name}", TensorProto.FLOAT, shape, [])
    graph.node.append(helper.make_node("Constant", [], [name], value=none))
    graph.output.insert(place, helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))


def as_branch(model, prefix):
    """Return the graph of a model with its own values prefixed, its inputs becoming those of the graph around it."""
    graph = onnx.GraphProto()
    graph.CopyFrom(compose.add_prefix(model, prefix).graph)
    inputs = {value.name for value in graph.input}
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name in inputs:
                node.input[position] = name.removeprefix(prefix)
    del graph.input[:]
    return graph


def share_weights(graphs):
    """Take the weights that stand in more than one graph out of them: a list of TensorProto for the graph around."""
    places = defaultdict(list)  # content -> (graph, name)
    for graph in graphs:
        for tensor in graph.initializer:
            content = onnx.TensorProto()
            content.CopyFrom(tensor)
            content.ClearField("name")
            places[content.SerializeToString(deterministic=True)].append((graph, tensor.name))
    shared = []
    for content, uses in places.items():
        if len({id(graph) for graph, _ in uses}) == 1:
            continue
        tensor = onnx.TensorProto.FromString(content)
        tensor.name = f"shared/{len(shared)}"
        shared.append(tensor)
        for graph, name in uses:
            kept = [other for other in graph.initializer if other.name != name]
            del graph.initializer[:]
            graph.initializer.extend(kept)
            for node in graph.node:
                for position, value in enumerate(node.input):
                    if value == name:
                        node.input[position] = tensor.name
    return shared
