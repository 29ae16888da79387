"""Does an ONNX file borrow weights from other files? Asked without the onnx package, in the time of its fields.

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
MAX_FIELDS = 1 << 22
"""Fields looked at before a file is refused: some 40 for each of 100,000 nodes. A hostile file can hold a billion."""


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
        If the bytes are not a protocol buffer, one that parsers may read in different ways, or of too many fields; or
        if the model has functions of its own. ONNX Runtime puts a copy of the body in the place of each call: without
        end if a function calls itself (1.23 then crashes), and 2^30 times over if 30 functions call the next twice.
    """
    within = [("model", 0, len(model))]  # the message that is read, last, and those that hold it
    fields, functions = 0, False
    while within:
        message, position, end = within.pop()
        while position < end:
            tag, position = _varint(model, position, end)
            field, wire = tag >> 3, tag & 7
            start = position
            if not 0 < field < 1 << 29:  # ONNX Runtime drops the bits above, and would see another field than this
                raise ValueError(f"engine: expected an ONNX file, got field {field} at byte {start}. Re-export it.")
            fields += 1
            if fields > MAX_FIELDS:
                raise ValueError(
                    f"engine: expected an ONNX file of at most {MAX_FIELDS} fields, got more. Export a smaller graph."
                )
            inner = None
            if wire == 0:
                value, position = _varint(model, position, end)
                if message == "tensor" and field == _DATA_LOCATION and value != 0:
                    return True
            elif wire == 2:
                length, start = _varint(model, position, end)
                position = start + length
                if message == "tensor" and field == _EXTERNAL_DATA:
                    return True
                inner = _MESSAGES[message].get(field)
                functions = functions or inner == "function"
            elif wire in (1, 5):
                position += 8 if wire == 1 else 4
            else:
                raise ValueError(f"engine: expected an ONNX file, got wire type {wire} at byte {start}. Re-export it.")
            if position > end:
                raise ValueError(f"engine: expected an ONNX file, got one cut short at byte {end}. Re-export it.")
            if inner:
                within.append((message, position, end))
                message, position, end = inner, start, position
    if functions:
        raise ValueError(
            "engine: expected an ONNX file without functions of its own, got some. Inline them with onnx.inliner."
        )
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
