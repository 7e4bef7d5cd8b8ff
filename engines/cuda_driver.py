"""The first NVIDIA GPU: what it is, memory on it and copies to and from it, by calling the driver directly.

The driver brings both libraries used here, so nothing else need be installed for these few functions; CUDA's own
runtime and cuda-bindings (8 MB) would. Names, numbers and types are those of CUDA's `cuda.h` and of NVML's `nvml.h`.
"""

import ctypes
from contextlib import suppress
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_ubyte, c_uint, c_uint64, c_void_p
from dataclasses import dataclass
from functools import cache
from uuid import UUID

from .base import Array
from .errors import EngineError, EngineUnavailable

CUDA, NVML = "libcuda.so.1", "libnvidia-ml.so.1"
OUT_OF_MEMORY, NO_DEVICE = 2, 100
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
NAME_BYTES, VERSION_BYTES = 256, 80
ARGUMENTS = {
    "cuInit": (c_uint,),
    "cuDeviceGetCount": (POINTER(c_int),),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDeviceGetName": (c_char_p, c_int, c_int),
    "cuDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cuDeviceGetUuid_v2": (c_char_p, c_int),
    "cuDevicePrimaryCtxRetain": (POINTER(c_void_p), c_int),
    "cuDevicePrimaryCtxRelease_v2": (c_int,),
    "cuCtxSetCurrent": (c_void_p,),
    "cuStreamCreate": (POINTER(c_void_p), c_uint),
    "cuStreamSynchronize": (c_void_p,),
    "cuStreamDestroy_v2": (c_void_p,),
    "cuMemAlloc_v2": (POINTER(c_uint64), c_size_t),
    "cuMemFree_v2": (c_uint64,),
    "cuMemsetD8_v2": (c_uint64, c_ubyte, c_size_t),
    "cuMemcpyHtoDAsync_v2": (c_uint64, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoHAsync_v2": (c_void_p, c_uint64, c_size_t, c_void_p),
    "cuGetErrorString": (c_int, POINTER(c_char_p)),
}


@dataclass(frozen=True)
class GpuFacts:
    """What a plan for a GPU depends on."""

    name: str
    target: str
    """Its compute capability, `sm89` for 8.9."""
    driver: str
    """Version of the driver, as nvidia-smi shows it."""


def gpu_facts() -> GpuFacts:
    """Of the first GPU. Raises EngineUnavailable if there is none, or no driver."""
    return GpuFacts(*gpu_kind(), _driver_version())


def gpu_kind() -> tuple[str, str]:
    """The first GPU's name and compute capability, `sm89` for 8.9. Raises EngineUnavailable as `gpu_facts` does."""
    device = _first_device()
    name = ctypes.create_string_buffer(NAME_BYTES)
    _call("cuDeviceGetName", name, NAME_BYTES, device)
    major, minor = c_int(), c_int()
    _call("cuDeviceGetAttribute", byref(major), CAPABILITY_MAJOR, device)
    _call("cuDeviceGetAttribute", byref(minor), CAPABILITY_MINOR, device)
    return name.value.decode(), f"sm{major.value}{minor.value}"


def gpu_uuid() -> str:
    """The first GPU's name for nvidia-smi, which counts them in another order. Raises as `gpu_facts` does."""
    number = ctypes.create_string_buffer(16)
    _call("cuDeviceGetUuid_v2", number, _first_device())
    return f"GPU-{UUID(bytes=number.raw)}"


class Gpu:
    """The context of the first GPU that the CUDA runtime of this process uses too, a stream, and memory."""

    def __init__(self) -> None:
        """Raises EngineUnavailable if there is no GPU or driver, EngineError."""
        self._context, self._stream = c_void_p(), c_void_p()
        self._sizes: dict[int, int] = {}
        self._device = _first_device()
        _call("cuDevicePrimaryCtxRetain", byref(self._context), self._device)
        try:
            self.enter()
            _call("cuStreamCreate", byref(self._stream), 1)  # 1: does not wait for the default stream
        except BaseException:
            with suppress(EngineError):  # what went wrong first is what the user must hear
                self.close()
            raise

    @property
    def stream(self) -> int:
        """The stream's handle."""
        return self._stream.value or 0

    def enter(self) -> None:
        """Make the calling thread use this GPU; every thread does so before anything else."""
        _call("cuCtxSetCurrent", self._context)

    def allocate(self, size: int) -> int:
        """The address of `size` bytes on the GPU. Raises EngineError if they are not free."""
        address = c_uint64()
        _call("cuMemAlloc_v2", byref(address), size)
        self._sizes[address.value] = size
        return address.value

    def send(self, array: Array, address: int) -> None:
        """Copy a contiguous array to the GPU; it must stay as it is until `wait` returns."""
        self._check(array, address)
        _call("cuMemcpyHtoDAsync_v2", address, array.ctypes.data, array.nbytes, self._stream)

    def fetch(self, array: Array, address: int) -> None:
        """Fill a contiguous array from the GPU; it is filled when `wait` returns."""
        self._check(array, address)
        _call("cuMemcpyDtoHAsync_v2", array.ctypes.data, address, array.nbytes, self._stream)

    def wait(self) -> None:
        """Until everything that was put into the stream is done. Raises EngineError for what failed in it."""
        _call("cuStreamSynchronize", self._stream)

    def close(self) -> None:
        """Overwrite and free the memory; closing again does nothing. Raises the first EngineError when all is tried."""
        if not self._context:
            return
        calls: list[tuple[object, ...]] = [("cuCtxSetCurrent", self._context)]
        for address, size in self._sizes.items():
            calls += [("cuMemsetD8_v2", address, 0, size), ("cuMemFree_v2", address)]  # it held a patient's picture
        if self._stream:
            calls.append(("cuStreamDestroy_v2", self._stream))
        calls.append(("cuDevicePrimaryCtxRelease_v2", self._device))
        self._context, self._sizes = c_void_p(), {}
        errors = []
        for function, *arguments in calls:  # after a fault of the GPU some fail, and the others must still be made
            try:
                _call(str(function), *arguments)
            except EngineError as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def __del__(self) -> None:
        with suppress(EngineError):  # at the end of a process the driver may be gone
            self.close()

    def _check(self, array: Array, address: int) -> None:
        # The driver would copy beyond an end without a word.
        if array.nbytes > self._sizes[address]:
            raise EngineError(f"an array of {array.nbytes} bytes does not fit {self._sizes[address]} on the GPU")
        if not array.flags.c_contiguous:
            raise EngineError("an array that is not contiguous cannot be copied to or from the GPU")


def _first_device() -> int:
    _call("cuInit", 0)
    count, device = c_int(), c_int()
    _call("cuDeviceGetCount", byref(count))
    if not count.value:
        raise EngineUnavailable("device 'cuda' was asked for, but this machine has no NVIDIA GPU: ask for 'cpu'")
    _call("cuDeviceGet", byref(device), 0)
    return device.value


@cache
def _library() -> ctypes.CDLL:
    library = _load(CUDA)
    for name, arguments in ARGUMENTS.items():
        getattr(library, name).argtypes = arguments
    return library


def _load(name: str) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(name)
    except OSError as error:
        raise EngineUnavailable(
            f"device 'cuda' was asked for, but NVIDIA's driver is not installed ({error}): install it, or ask for 'cpu'"
        ) from None


def _call(function: str, *arguments: object) -> None:
    """Call the driver. Raises EngineUnavailable where it cannot start at all, EngineError for any other failure."""
    library = _library()
    code = getattr(library, function)(*arguments)
    if code == 0:
        return
    text = c_char_p()
    library.cuGetErrorString(code, byref(text))
    reason = (text.value or b"unknown").decode()
    if function == "cuInit" and code == NO_DEVICE:
        raise EngineUnavailable(
            "device 'cuda' was asked for, but there is no NVIDIA GPU, or CUDA_VISIBLE_DEVICES hides it: ask for 'cpu'"
        )
    if function == "cuInit":
        raise EngineUnavailable(
            f"device 'cuda' was asked for, but NVIDIA's driver cannot start: {reason} ({code}): see to the driver, or "
            "ask for 'cpu'"
        )
    if code == OUT_OF_MEMORY:
        raise EngineError("the GPU has too little free memory: close other programs that use it, or ask for 'cpu'")
    raise EngineError(f"the GPU failed: {function}: {reason} ({code})")


def _driver_version() -> str:
    library = _load(NVML)
    version = ctypes.create_string_buffer(VERSION_BYTES)
    code = library.nvmlInit_v2() or library.nvmlSystemGetDriverVersion(version, c_uint(VERSION_BYTES))
    if code:
        raise EngineUnavailable(f"the version of NVIDIA's driver cannot be read ({NVML}: error {code})")
    library.nvmlShutdown()
    return version.value.decode()
