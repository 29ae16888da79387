"""Does an ONNX file borrow weights from other files? Asked without the onnx package, at the size of the graph.

A sha256 pins the ONNX file alone. Tensors kept elsewhere ("external data") would be read from the working directory
when a model is opened from memory, and could be swapped unseen (ONNX Runtime 1.20 even follows absolute paths).
"""

from __future__ import annotations

# Where a tensor can hide: message -> {field number: message}, from onnx.proto (ONNX IR version 3 to 13).
_MESSAGES: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # of a tensor: list of (key, value); 0 default, 1 external


def refuse_external_data(model: bytes) -> None:
    """Refuse an ONNX model that borrows weights from other files.

    Raises
    ------
    ValueError
        If it does, or the bytes are not a protocol buffer.
    """
    if references_external_data(model):
        raise ValueError(
            "engine: expected an ONNX file that holds all its weights, got external data. "
            "Export with external_data=False: a sha256 pins one file only."
        )


def references_external_data(model: bytes) -> bool:
    """Return whether any tensor of a serialised ONNX model, in whatever subgraph or function, lies outside the file.

    Raises
    ------
    ValueError
        If the bytes are not a protocol buffer.
    """
    waiting = [("model", 0, len(model))]
    while waiting:
        message, position, end = waiting.pop()
        while position < end:
            tag, position = _varint(model, position, end)
            field, wire = tag >> 3, tag & 7
            start = position
            if wire == 0:
                value, position = _varint(model, position, end)
                if message == "tensor" and field == _DATA_LOCATION and value != 0:
                    return True
            elif wire == 2:
                length, start = _varint(model, position, end)
                position = start + length
                if message == "tensor" and field == _EXTERNAL_DATA:
                    return True
                if field in _MESSAGES[message]:
                    waiting.append((_MESSAGES[message][field], start, position))
            elif wire in (1, 5):
                position += 8 if wire == 1 else 4
            else:
                raise ValueError(f"engine: expected an ONNX file, got wire type {wire} at byte {start}. Re-export it.")
            if position > end:
                raise ValueError(f"engine: expected an ONNX file, got one cut short at byte {end}. Re-export it.")
    return False


def _varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError(f"engine: expected an ONNX file, got a broken number at byte {position}. Re-export it.")
