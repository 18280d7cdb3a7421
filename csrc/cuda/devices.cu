// Which GPUs there are.
#include <cuda_runtime.h>

#include "cuda/device_batch.h"

namespace spf {

int count_devices() {
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error == cudaSuccess && count > 0) return count;
    throw std::runtime_error(std::string("device=\"cuda\" found no GPU: ") +
                             cudaGetErrorString(error == cudaSuccess ? cudaErrorNoDevice : error));
}

}  // namespace spf
