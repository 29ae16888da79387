"""The parts of TensorRT's Python API that rrise uses, as tables: class -> member -> names of the parameters.

Run as a script with the name of a module (tensorrt, tensorrt_bindings or tensorrt_rtx), it prints the table of that
module; tests/golden/tensorrt_api_*.json were made so from NVIDIA's wheels.
"""

import importlib
import json
import re
import sys
from types import ModuleType

CLASSES = (
    "Builder",
    "BuilderFlag",
    "DataType",
    "DynamicShapesKernelSpecializationStrategy",
    "ExecutionContextAllocationStrategy",
    "IBuilderConfig",
    "ICudaEngine",
    "IExecutionContext",
    "IHostMemory",
    "ILogger",
    "INetworkDefinition",
    "IOptimizationProfile",
    "IRuntimeConfig",
    "ITensor",
    "ITimingCache",
    "MemoryPoolType",
    "NetworkDefinitionCreationFlag",
    "OnnxParser",
    "ParserError",
    "Runtime",
    "TensorIOMode",
)


def parameters(member: object, name: str) -> list[list[str]] | None:
    """The parameter names of each overload, as pybind11's docstring tells them; None if it is no method."""
    if not callable(member) or isinstance(member, type):
        return None
    signatures = re.findall(rf"^(?:\d+\. )?{name}\(self: [^,)]+(.*)\) ->", member.__doc__ or "", re.MULTILINE)
    return [re.findall(r", (\w+): ", signature) for signature in signatures]


def table(module: ModuleType) -> dict:
    classes = {}
    for name in CLASSES:
        found = getattr(module, name, None)
        if found is not None:
            members = (member for member in dir(found) if not member.startswith("_"))
            classes[name] = {member: parameters(getattr(found, member), member) for member in members}
            if "__init__" in vars(found):
                classes[name]["__init__"] = parameters(found.__init__, "__init__")
    return {"version": module.__version__, "classes": classes}


if __name__ == "__main__":
    print(json.dumps(table(importlib.import_module(sys.argv[1])), indent=1, sort_keys=True))
