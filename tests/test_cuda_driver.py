"""The calls to NVIDIA's driver: made to a driver written here, on whose GPU the memory is the machine's own.

It shows that numbers and addresses arrive whole and what becomes of errors, not that a real driver takes the calls.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = r"""
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static int setting(const char *name) { const char *v = getenv(name); return v ? atoi(v) : 0; }
static void *context = (void *)0x7fff12345678, *stream = (void *)0x7fff87654321;
static uint64_t last; static size_t size;
int cuInit(unsigned flags) { return flags ? 1 : setting("INIT"); }
int cuDeviceGetCount(int *count) { *count = !setting("NO_GPU"); return 0; }
int cuDeviceGet(int *device, int number) { *device = 7; return number; }
int cuDeviceGetName(char *name, int length, int device) { snprintf(name, length, "card %d", device); return 0; }
int cuDeviceGetAttribute(int *value, int what, int device) {
    *value = what == 75 ? 12 : 1; return what == 75 || what == 76 ? device != 7 : 1; }
int cuDeviceGetUuid_v2(char *uuid, int device) {
    for (int i = 0; i < 16; i++) uuid[i] = (char)(0xe0 + i);
    return device != 7; }
int cuDevicePrimaryCtxRetain(void **c, int device) { *c = context; return device != 7; }
int cuDevicePrimaryCtxRelease_v2(int device) { puts("released"); return device != 7; }
int cuCtxSetCurrent(void *c) { return c != context; }
int cuStreamCreate(void **s, unsigned flags) { *s = stream; return flags != 1; }
int cuStreamSynchronize(void *s) { return s == stream ? setting("FAULT") : 1; }
int cuStreamDestroy_v2(void *s) { return s != stream; }
int cuMemAlloc_v2(uint64_t *address, size_t bytes) {
    if (bytes > 1UL << 40) return 2;
    *address = last = (uint64_t)malloc(bytes); size = bytes; return 0; }
int cuMemFree_v2(uint64_t address) {
    size_t set = 0; for (size_t i = 0; i < size; i++) set += ((char *)address)[i] != 0;
    printf("freed, %zu bytes not wiped\n", set); free((void *)address); return address != last; }
int cuMemsetD8_v2(uint64_t address, unsigned char value, size_t bytes) {
    if (setting("WIPE")) return setting("WIPE");
    memset((void *)address, value, bytes); return 0; }
int cuMemcpyHtoDAsync_v2(uint64_t to, void *from, size_t bytes, void *s) {
    memcpy((void *)to, from, bytes); return s != stream; }
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *s) {
    memcpy(to, (void *)from, bytes); return s != stream; }
int cuGetErrorString(int code, const char **text) { *text = "what it says"; return code == 0; }
"""
NVML = r"""
#include <string.h>
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlSystemGetDriverVersion(char *version, unsigned length) { strncpy(version, "580.65.06", length); return 0; }
"""
CODE = """
import os
import numpy as np
from skingpt_edge.engines.cuda_driver import Gpu, gpu_facts, gpu_uuid
from skingpt_edge.engines.errors import SkinGPTError
def refused(call, *arguments):
    try:
        call(*arguments)
    except SkinGPTError as error:
        print(type(error).__name__, error, flush=True)
def work():
    print(gpu_facts(), flush=True)
    print(gpu_uuid(), flush=True)
    gpu = Gpu()
    assert gpu.stream == 0x7fff87654321
    sent, fetched = np.arange(1000, dtype=np.float32), np.zeros(1000, np.float32)
    address = gpu.allocate(sent.nbytes)
    gpu.send(sent, address)
    gpu.fetch(fetched, address)
    assert np.array_equal(sent, fetched)
    refused(gpu.send, np.zeros(1001, np.float32), address)
    refused(gpu.fetch, np.zeros((2000,), np.float32)[::2], address)
    refused(gpu.allocate, 1 << 41)
    refused(gpu.wait)
    refused(gpu.close)
    gpu.close()
def drop():
    gpu = Gpu()
    gpu.allocate(8)
    del gpu
    print("dropped", flush=True)
refused(drop if "DROP" in os.environ else work)
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory) -> Path:
    if not shutil.which("cc"):
        pytest.skip("needs a C compiler")
    folder = tmp_path_factory.mktemp("driver")
    for name, source in (("libcuda.so.1", DRIVER), ("libnvidia-ml.so.1", NVML)):
        (folder / f"{name}.c").write_text(source)
        subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / name, folder / f"{name}.c"], check=True)
    return folder


def lines(driver: Path, **settings: str) -> list[str]:
    environment = {**os.environ, "LD_LIBRARY_PATH": str(driver), **settings}
    result = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_arrays_go_to_the_gpu_and_back_and_nothing_is_left_there(driver):
    assert lines(driver) == [
        "GpuFacts(name='card 7', target='sm121', driver='580.65.06')",
        "GPU-e0e1e2e3-e4e5-e6e7-e8e9-eaebecedeeef",
        "EngineError an array of 4004 bytes does not fit 4000 on the GPU",
        "EngineError an array that is not contiguous cannot be copied to or from the GPU",
        "EngineError the GPU has too little free memory: close other programs that use it, or ask for 'cpu'",
        "freed, 0 bytes not wiped",
        "released",
    ]


def test_a_gpu_that_is_dropped_is_given_back(driver):
    assert lines(driver, DROP="1") == ["freed, 0 bytes not wiped", "released", "dropped"]


def test_what_the_driver_says_reaches_the_user(driver):
    assert lines(driver, INIT="999") == [
        "EngineUnavailable device 'cuda' was asked for, but NVIDIA's driver cannot start: what it says (999): see "
        "to the driver, or ask for 'cpu'"
    ]
    assert lines(driver, INIT="100") == [
        "EngineUnavailable device 'cuda' was asked for, but there is no NVIDIA GPU, or CUDA_VISIBLE_DEVICES hides it: "
        "ask for 'cpu'"
    ]
    assert lines(driver, NO_GPU="1") == [
        "EngineUnavailable device 'cuda' was asked for, but this machine has no NVIDIA GPU: ask for 'cpu'"
    ]
    assert "EngineError the GPU failed: cuStreamSynchronize: what it says (700)" in lines(driver, FAULT="700")


def test_a_gpu_that_failed_is_given_back_all_the_same(driver):
    *_, error_of_work, freed, released, error_of_closing = lines(driver, FAULT="700", WIPE="719")
    assert error_of_work == "EngineError the GPU failed: cuStreamSynchronize: what it says (700)"
    assert freed.startswith("freed, ")
    assert released == "released"
    assert error_of_closing == "EngineError the GPU failed: cuMemsetD8_v2: what it says (719)"
