// For each line of the input (architecture, threads and shared memory of a multiprocessor, shared memory reserved of each
// block; threads, registers and shared memory of a kernel): how many blocks NVIDIA's own rules allow.
#include <climits>
#include <cstdio>
#include <cstring>
#include "cuda_occupancy.h"

int main() {
    int architecture, threads, shared, reserved, kernel_threads, kernel_registers, kernel_shared;
    while (std::scanf(
               "%d %d %d %d %d %d %d",
               &architecture, &threads, &shared, &reserved, &kernel_threads, &kernel_registers, &kernel_shared
           ) == 7) {
        cudaOccDeviceProp device;
        device.computeMajor = architecture / 10;
        device.computeMinor = architecture % 10;
        device.maxThreadsPerBlock = 1024;
        device.maxThreadsPerMultiprocessor = threads;
        device.regsPerBlock = device.regsPerMultiprocessor = 64 * 1024;
        device.warpSize = 32;
        device.sharedMemPerBlock = 48 * 1024;
        device.sharedMemPerMultiprocessor = shared;
        device.numSms = 1;
        device.sharedMemPerBlockOptin = shared - reserved;
        device.reservedSharedMemPerBlock = reserved;
        cudaOccFuncAttributes kernel;
        kernel.maxThreadsPerBlock = 1024;
        kernel.numRegs = kernel_registers;
        kernel.sharedSizeBytes = kernel_shared;
        kernel.numBlockBarriers = 1;
        cudaOccDeviceState state;
        state.carveoutConfig = SHAREDMEM_CARVEOUT_MAX_SHARED;
        cudaOccResult result;
        if (cudaOccMaxActiveBlocksPerMultiprocessor(&result, &device, &kernel, &state, kernel_threads, 0)) return 1;
        std::printf("%d\n", result.activeBlocksPerMultiprocessor);
    }
}
