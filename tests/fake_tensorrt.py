"""TensorRT made of numpy: the classes that rrise uses, none of them with a member that NVIDIA's have not.

A "plan" is JSON of a linear network, logits = flatten(images) @ weights + bias, bound to the version and the GPU that
built it. `tests/test_tensorrt_api.py` compares every public name and every parameter here with NVIDIA's own.
"""

import ctypes
import enum
import json
from types import SimpleNamespace

import numpy as np
import onnx
from fake_cuda import FakeRuntime
from onnx import numpy_helper

GPU = "Fake GPU"
WARM_UPS = 2


def make_module(version: str, runtime: FakeRuntime, rtx: bool = False) -> SimpleNamespace:
    """A fresh module; ``fake.broken`` maps a method to what it logs as it fails, ``calls`` is what was called."""
    fake = SimpleNamespace(broken={}, calls=[], warned={}, capturable=True, config=[], answer=None)
    fake.contexts, fake.orphans, fake.seen = 0, 0, []  # alive; alive after their memory; images of every run

    def called(name: str, logger: object) -> bool:
        """Write the call down; False, and a line in the log, if it is to fail."""
        fake.calls.append(name)
        if name in fake.warned:
            logger.log(ILogger.WARNING, fake.warned[name])
        if fake.broken.get(name):
            logger.log(ILogger.ERROR, fake.broken[name])
        return name not in fake.broken

    Severity = enum.IntEnum("Severity", {"INTERNAL_ERROR": 0, "ERROR": 1, "WARNING": 2, "INFO": 3})

    class ILogger:
        INTERNAL_ERROR = Severity.INTERNAL_ERROR
        ERROR = Severity.ERROR
        WARNING = Severity.WARNING
        INFO = Severity.INFO

        def __init__(self) -> None:
            self._ready = True

        def log(self, severity: Severity, msg: str) -> None:
            raise NotImplementedError

    DataType = enum.IntEnum("DataType", {"FLOAT": 0, "HALF": 1})
    BuilderFlag = enum.IntEnum("BuilderFlag", {"TF32": 8})
    RtxBuilderFlag = enum.IntEnum("RtxBuilderFlag", {"TF32": 8, "REQUIRE_USER_ALLOCATION": 28})
    MemoryPoolType = enum.IntEnum("MemoryPoolType", {"WORKSPACE": 0})
    NetworkDefinitionCreationFlag = enum.IntEnum("NetworkDefinitionCreationFlag", {"STRONGLY_TYPED": 1})
    ExecutionContextAllocationStrategy = enum.IntEnum("ExecutionContextAllocationStrategy", {"USER_MANAGED": 2})
    DynamicShapesKernelSpecializationStrategy = enum.IntEnum(
        "DynamicShapesKernelSpecializationStrategy", {"LAZY": 0, "EAGER": 1}
    )
    TensorIOMode = enum.IntEnum("TensorIOMode", {"INPUT": 1, "OUTPUT": 2})

    class ITensor:
        name = dtype = shape = None

        def __init__(self, value: object) -> None:
            tensor = value.type.tensor_type
            self.name = value.name
            self.dtype = DataType.FLOAT if tensor.elem_type == onnx.TensorProto.FLOAT else DataType.HALF
            self.shape = tuple(size.dim_value if size.HasField("dim_value") else -1 for size in tensor.shape.dim)

    class INetworkDefinition:
        num_inputs = num_outputs = None

        def __init__(self) -> None:
            self._inputs, self._outputs, self._weights = [], [], {}
            self.num_inputs = self.num_outputs = 0

        def get_input(self, index: int) -> ITensor:
            return self._inputs[index]

        def get_output(self, index: int) -> ITensor:
            return self._outputs[index]

    class ParserError:
        def __init__(self, text: str) -> None:
            self._text = text

        def desc(self) -> str:
            return self._text

        def node_name(self) -> str:
            return "node_7"

        def node_operator(self) -> str:
            return "Det"

    class OnnxParser:
        num_errors = 0

        def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
            self._network, self._logger = network, logger

        def parse(self, model: bytes, path: str | None = None) -> bool:
            assert path is None
            if not called("parse", self._logger):
                self.num_errors = int(fake.broken["parse"] != "")
                return False
            graph = onnx.load_from_string(model).graph
            self._network._inputs = [ITensor(value) for value in graph.input]
            self._network._outputs = [ITensor(value) for value in graph.output]
            self._network.num_inputs, self._network.num_outputs = len(graph.input), len(graph.output)
            self._network._weights = {t.name: numpy_helper.to_array(t).tolist() for t in graph.initializer}
            return True

        def get_error(self, index: int) -> ParserError:
            assert index == 0
            return ParserError(fake.broken["parse"])

    class IOptimizationProfile:
        def set_shape(self, input: str, min: tuple, opt: tuple, max: tuple) -> None:
            if not all(a <= b <= c for a, b, c in zip(min, opt, max, strict=True)):
                raise ValueError("Inconsistent shapes")
            self._shapes = {input: [list(min), list(opt), list(max)]}

    class ITimingCache:
        def __init__(self, data: bytes) -> None:
            self._data = data

        def serialize(self) -> bytes:
            return self._data + b"+timings"

    class IBuilderConfig:
        builder_optimization_level = 3

        def __init__(self, logger: ILogger) -> None:
            self._flags, self._logger = {BuilderFlag.TF32}, logger
            self._limits, self._cache, self._profiles = {}, None, []
            fake.config.append(self)

        def set_flag(self, flag: BuilderFlag) -> None:
            self._flags.add(flag)

        def clear_flag(self, flag: BuilderFlag) -> None:
            self._flags.discard(flag)

        def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
            self._limits[pool] = pool_size

        def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
            self._profiles.append(profile._shapes)
            return 0 if called("add_optimization_profile", self._logger) else -1

        def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None:
            return ITimingCache(serialized_timing_cache) if called("create_timing_cache", self._logger) else None

        def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
            assert cache is not None
            assert not ignore_mismatch
            self._cache = cache
            return called("set_timing_cache", self._logger)

        def get_timing_cache(self) -> ITimingCache:
            return self._cache

    class IHostMemory:
        def __init__(self, data: bytes) -> None:
            self._data = data

        def __bytes__(self) -> bytes:
            return self._data

    class Builder:
        def __init__(self, logger: ILogger) -> None:
            self._logger = logger
            if not called("Builder", logger):
                raise TypeError("pybind11::init(): factory function returned nullptr")

        def create_network(self, flags: int = 0) -> INetworkDefinition:
            strongly_typed = 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
            assert flags == (strongly_typed if version.startswith("10.") else 0)
            return INetworkDefinition()

        def create_builder_config(self) -> IBuilderConfig:
            return IBuilderConfig(self._logger)

        def create_optimization_profile(self) -> IOptimizationProfile:
            return IOptimizationProfile()

        def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
            if not called("build_serialized_network", self._logger):
                return None
            (shapes,) = config._profiles
            names = (network._inputs[0].name, network._outputs[0].name)
            content = {
                "version": version,
                "gpu": "" if rtx else GPU,
                "names": names,
                "shapes": (network._inputs[0].shape, network._outputs[0].shape),
                "profile": shapes[names[0]],
                "weights": network._weights,
            }
            return IHostMemory(json.dumps(content).encode())

    class IRuntimeConfig:
        dynamic_shapes_kernel_specialization_strategy = DynamicShapesKernelSpecializationStrategy.LAZY

        def set_execution_context_allocation_strategy(self, strategy: ExecutionContextAllocationStrategy) -> None:
            self._strategy = strategy

    class IExecutionContext:
        def __init__(self, plan: "ICudaEngine") -> None:
            self._plan, self._addresses, self._shape, self._scratch, self._ran = plan, {}, None, None, 0
            fake.contexts += 1

        def __del__(self) -> None:
            fake.contexts -= 1
            fake.orphans += self._scratch not in runtime.fake.memory

        def set_device_memory(self, memory: int, size: int) -> None:
            assert memory % 8 == 0
            assert size >= self._plan.device_memory_size_v2
            runtime.fake.check(memory, size, "cudaMalloc")
            self._scratch = memory

        def set_input_shape(self, name: str, shape: tuple) -> bool:
            low, _, high = self._plan._content["profile"]
            assert name == self._plan._content["names"][0]
            self._shape = tuple(shape)
            fits = all(a <= size <= b for a, size, b in zip(low, shape, high, strict=True))
            return called("set_input_shape", self._plan._logger) and fits

        def set_tensor_address(self, name: str, memory: int) -> bool:
            assert name in self._plan._content["names"]
            self._addresses[name] = memory
            return called("set_tensor_address", self._plan._logger)

        def get_tensor_shape(self, name: str) -> tuple:
            return fake.answer or (self._shape[0], self._plan._content["shapes"][1][1])

        def execute_async_v3(self, stream_handle: int) -> bool:
            stream = runtime.fake.streams[stream_handle]
            assert runtime.fake.device == stream.device
            assert self._scratch is not None
            if stream.captured is not None and self._ran < WARM_UPS:
                self._plan._logger.log(ILogger.ERROR, "deferred work during capture")
                return False
            self._ran += stream.captured is None
            images, logits = (self._addresses[name] for name in self._plan._content["names"])
            shape, weights = self._shape, self._plan._content["weights"]

            def work() -> None:
                w, b = (np.array(weights[name], np.float32) for name in ("W", "b"))
                count, rows = int(np.prod(shape)), shape[0] * len(b)
                runtime.fake.check(images, 4 * count, "cudaMalloc")
                runtime.fake.check(logits, 4 * rows, "cudaMalloc")
                x = np.ctypeslib.as_array((ctypes.c_float * count).from_address(images)).reshape(shape[0], -1)
                y = np.ctypeslib.as_array((ctypes.c_float * rows).from_address(logits))
                y[:] = (x @ w + b).ravel()
                fake.seen.append(x.copy())

            stream.add(work)
            return called("execute_async_v3", self._plan._logger)

    class RtxExecutionContext(IExecutionContext):
        def is_stream_capturable(self, stream: int) -> bool:
            assert stream in runtime.fake.streams
            return fake.capturable

    class ICudaEngine:
        num_io_tensors = 2
        device_memory_size_v2 = 4096

        def __init__(self, content: dict, logger: ILogger) -> None:
            self._content, self._logger = content, logger

        def get_tensor_name(self, index: int) -> str:
            return self._content["names"][index]

        def get_tensor_mode(self, name: str) -> TensorIOMode:
            return TensorIOMode.INPUT if name == self._content["names"][0] else TensorIOMode.OUTPUT

        def get_tensor_dtype(self, name: str) -> DataType:
            return DataType.FLOAT

        def get_tensor_shape(self, name: str) -> tuple:
            return tuple(self._content["shapes"][self._content["names"].index(name)])

        def get_tensor_profile_shape(self, name: str, profile_index: int) -> list:
            assert profile_index == 0
            return self._content["profile"]

        def create_execution_context(self, strategy: object) -> IExecutionContext | None:
            if not called("create_execution_context", self._logger):
                return None
            if rtx:
                eager = DynamicShapesKernelSpecializationStrategy.EAGER
                assert strategy._strategy == ExecutionContextAllocationStrategy.USER_MANAGED
                assert strategy.dynamic_shapes_kernel_specialization_strategy == eager
                return RtxExecutionContext(self)
            assert strategy == ExecutionContextAllocationStrategy.USER_MANAGED
            return IExecutionContext(self)

    class RtxCudaEngine(ICudaEngine):
        def create_runtime_config(self) -> IRuntimeConfig:
            return IRuntimeConfig()

    class Runtime:
        def __init__(self, logger: ILogger) -> None:
            self._logger = logger
            if not called("Runtime", logger):
                raise TypeError("pybind11::init(): factory function returned nullptr")

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
            called("deserialize_cuda_engine", self._logger)
            assert serialized_engine, "TensorRT is not to be trusted with no bytes"
            try:
                content = json.loads(serialized_engine)
            except ValueError:
                self._logger.log(ILogger.ERROR, "Serialization assertion magicTagRead == kMAGIC_TAG failed.")
                return None
            if content["version"] != version:
                self._logger.log(ILogger.ERROR, f"Version tag does not match: {content['version']}, {version}.")
                return None
            return (RtxCudaEngine if rtx else ICudaEngine)(content, self._logger)

    classes = {name: value for name, value in locals().items() if isinstance(value, type)}
    names = {
        "RtxBuilderFlag": "BuilderFlag",
        "RtxExecutionContext": "IExecutionContext",
        "RtxCudaEngine": "ICudaEngine",
    }
    only_rtx = ("DynamicShapesKernelSpecializationStrategy", "IRuntimeConfig", *names)
    public = {name: value for name, value in classes.items() if name != "Severity" and name not in only_rtx}
    if rtx:
        public |= {names.get(name, name): classes[name] for name in only_rtx}
    return SimpleNamespace(__version__=version, fake=fake, **public)
