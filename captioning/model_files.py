"""What a model file claims, read without a library that would load it: whether it is whole, and of a bearable size."""

import json

import numpy as np

from captioning.cli import one_line
from captioning.files import check_regular, naming

MAX_FILE_BYTES = 4 * 2**30
MAX_ONNX_BYTES = 2**30  # it is read as a whole; the largest of this project's models has under 100 MB
MAX_NODES = 20_000  # of an ONNX graph, those of its branches included
MAX_FIELDS = 200_000  # of a message in it, a hundred bytes of memory each
MAX_DEPTH = 3  # of branches in branches; this project's graphs have 1
MAX_HEADER_BYTES = 32 * 2**20  # of a safetensors file; a vocabulary of a million words takes half of it
MAX_OBJECTS = 20_000  # in that header: tensors, epochs of the history, settings


def check_safetensors(path):
    """Raise ValueError unless a safetensors file is whole, and has a size and a header that a checkpoint may have.

    Whole: 8 bytes for the header's length, the header, and the weights up to the last offset in it.
    Source: https://huggingface.co/docs/safetensors, "Format"
    """
    check_regular(path)
    problem, size = f"{path}: not a readable safetensors file", path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise ValueError(f"{path}: {size} bytes, at most {MAX_FILE_BYTES} are read")
    with naming(path), open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER_BYTES:
            raise ValueError(f"{problem} (a header of {length} bytes, at most {MAX_HEADER_BYTES} are read)")
        header = file.read(length)
    if header[:1] != b"{":
        raise ValueError(f"{problem} (its header is not JSON)")
    if header.count(b"{") > MAX_OBJECTS:  # each tensor needs one; counted before a parser makes dicts of them
        raise ValueError(f"{problem} (its header has more than {MAX_OBJECTS:,} objects)")
    try:
        tensors = json.loads(header)
        end = max((tensor["data_offsets"][1] for name, tensor in tensors.items() if name != "__metadata__"), default=0)
        whole = 8 + length + int(end)
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{problem} (its header: {one_line(error, 80)})") from None
    if size != whole:
        raise ValueError(f"{problem} (it has {size} bytes, its header tells of {whole})")


# ---- ONNX ------------------------------------------------------------------------------------------------

# What the exporter of this project writes, and its kin. No loops, no sizes that depend on values (NonZero), no other
# files (EPContext), nothing that draws at random.
_OPERATORS = (
    "Abs Add And AveragePool BatchNormalization Cast Ceil Clip Concat Constant ConstantOfShape Conv ConvInteger "
    "DequantizeLinear Div Dropout DynamicQuantizeLinear Equal Erf Exp Expand Flatten Floor GRU Gather Gemm "
    "GlobalAveragePool Greater GreaterOrEqual HardSigmoid HardSwish Identity If LSTM LayerNormalization LeakyRelu Less "
    "LessOrEqual Log LogSoftmax MatMul MatMulInteger Max MaxPool Mean Min Mul Neg Not Or Pad Pow QLinearConv "
    "QLinearMatMul QuantizeLinear RNN Reciprocal ReduceMax ReduceMean ReduceMin ReduceSum Relu Reshape Shape Sigmoid "
    "Slice Softmax Split Sqrt Squeeze Sub Sum Tanh Tile Transpose Unsqueeze Where "
    "DynamicQuantizeLSTM DynamicQuantizeMatMul FusedConv FusedGemm FusedMatMul Gelu MatMulIntegerToFloat QGemm "
    "QLinearAdd QLinearAveragePool QLinearConcat QLinearGlobalAveragePool QLinearLeakyRelu QLinearMul QLinearSigmoid "
    "QLinearSoftmax"
)
OPERATORS = set(_OPERATORS.split())
FLOATS = {1: (np.float32, 4), 10: (np.float16, 5), 11: (np.float64, 10)}  # data_type -> numpy's, field of plain values


def check_onnx(path, content):
    """Return the metadata {name: text} of the bytes of an ONNX file.

    Raises ValueError unless it is whole and holds all its weights itself, as finite numbers, and a graph of OPERATORS.

    Field numbers as in https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3; the encoding is that of protobuf.
    """
    try:
        model = read_message(memoryview(content))
        for name, field in (("version", 1), ("graph", 7), ("operator set", 8)):
            if field not in model:
                raise ValueError(f"it has no {name}")
        for field, what in ((20, "training"), (25, "functions")):
            if field in model:
                raise ValueError(f"it has {what}, which no model of this project has")
        count = sum(check_graph(graph) for graph in model[7])
        if count > MAX_NODES:
            raise ValueError(f"it has {count:,} nodes, at most {MAX_NODES:,} are run")
        entries = [read_message(entry) for entry in model.get(14, ())]
        return {text(entry, 1): text(entry, 2) for entry in entries}
    except (ValueError, TypeError, AttributeError) as error:  # a number where a message belongs, or the reverse
        raise ValueError(f"{path}: not a readable ONNX model ({one_line(error, 160)})") from None


def read_message(content):
    """Return {field number: [values]} of the memoryview of a protobuf message: numbers, or memoryviews of bytes."""
    if not isinstance(content, memoryview):
        raise ValueError("a number stands where a message belongs")
    fields, place, number = {}, 0, 0
    while place < len(content):
        key, place = read_varint(content, place)
        kind = key & 7
        if kind == 0:
            value, place = read_varint(content, place)
        else:
            if kind == 2:
                length, place = read_varint(content, place)
            elif kind in (1, 5):
                length = 8 if kind == 1 else 4
            else:
                raise ValueError(f"no protobuf at byte {place}")
            value, place = content[place : place + length], place + length
            if place > len(content):
                raise ValueError(f"it is cut: {place - len(content):,} bytes are missing")
        fields.setdefault(key >> 3, []).append(value)
        number += 1
        if number > MAX_FIELDS:
            raise ValueError(f"a message has more than {MAX_FIELDS:,} fields")
    return fields


def read_varint(content, place):
    """Return (the number at a place of a message, the place behind it): seven bits a byte, the lowest first."""
    number = 0
    for shift in range(0, 70, 7):
        if place >= len(content):
            raise ValueError("it is cut in a number")
        number |= (content[place] & 0x7F) << shift
        place += 1
        if content[place - 1] < 0x80:
            return number, place
    raise ValueError(f"no protobuf at byte {place}")


def text(message, field):
    """Return the text in a field of a message; "" = it is not there."""
    return bytes(message[field][-1]).decode() if field in message else ""


def check_graph(content, depth=0):
    """Return the number of nodes of a GraphProto. Raises ValueError for an operator or weights as check_onnx tells."""
    if depth > MAX_DEPTH:
        raise ValueError(f"it has branches in branches, {depth} deep")
    graph = read_message(content)
    if 15 in graph:
        raise ValueError("it has sparse weights, which no model of this project has")
    count, num_weights = len(graph.get(1, ())), len(graph.get(5, ()))
    if max(count, num_weights) > MAX_NODES:
        raise ValueError(f"it has {count:,} nodes and {num_weights:,} weights, at most {MAX_NODES:,} are read")
    for tensor in graph.get(5, ()):
        check_tensor(tensor)
    for node in map(read_message, graph.get(1, ())):
        operator, domain = text(node, 4), text(node, 7)
        if operator not in OPERATORS or domain not in ("", "ai.onnx", "com.microsoft"):
            raise ValueError(f"it has the operator {operator[:40]!a}, which no model of this project has")
        for attribute in map(read_message, node.get(5, ())):
            for tensor in (*attribute.get(5, ()), *attribute.get(10, ())):
                check_tensor(tensor)
            if 22 in attribute or 23 in attribute:
                raise ValueError("it has sparse weights, which no model of this project has")
            for branch in (*attribute.get(6, ()), *attribute.get(11, ())):
                count += check_graph(branch, depth + 1)
    return count


def check_tensor(content):
    """Raise ValueError if a TensorProto takes its values from another file, or holds NaN or infinity."""
    tensor = read_message(content)
    name = ascii(text(tensor, 8)[:40])
    if 13 in tensor or any(tensor.get(14, ())):
        raise ValueError(f"it takes the weights {name} from another file")
    kind = FLOATS.get(tensor.get(2, [0])[-1])
    for values in [*tensor.get(9, ()), *tensor.get(kind[1], ())] if kind else ():
        whole = isinstance(values, memoryview) and len(values) % np.dtype(kind[0]).itemsize == 0
        if whole and not np.isfinite(np.frombuffer(values, kind[0])).all():
            raise ValueError(f"its weights {name} hold NaN or infinity")
