// The machine of BlockBatch that is a GPU. Here, and nowhere else, is what the host cannot test: memory, streams,
// launches.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "cuda/device_batch.h"

namespace spf {

inline void check(cudaError_t error) {
    if (error != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error));
}

inline constexpr unsigned kBlock = 256;  // threads

template <class F>
__global__ void __launch_bounds__(kBlock) each_kernel(std::size_t count, F f) {
    const std::size_t i = std::size_t{blockIdx.x} * kBlock + threadIdx.x;
    if (i < count) f(i);
}

// Rows of bytes are written by threads side by side into shared memory, and go from there to memory 16 at a time.
template <class F>
__global__ void __launch_bounds__(kBlock)
    each_bytes_kernel(std::size_t count, std::size_t width, F f, std::uint8_t* out) {
    extern __shared__ uint4 staged[];
    auto* const bytes = reinterpret_cast<std::uint8_t*>(staged);
    const std::size_t first = std::size_t{blockIdx.x} * kBlock, i = first + threadIdx.x;
    if (i < count) f(i, bytes + threadIdx.x * width);
    __syncthreads();
    const std::size_t all = (count - first < kBlock ? count - first : kBlock) * width, whole = all / sizeof(uint4);
    auto* const to = reinterpret_cast<uint4*>(out + first * width);  // kBlock rows are a multiple of 16 bytes
    for (std::size_t k = threadIdx.x; k < whole; k += kBlock) to[k] = staged[k];
    for (std::size_t k = whole * sizeof(uint4) + threadIdx.x; k < all; k += kBlock) out[first * width + k] = bytes[k];
}

template <class F>
__global__ void __launch_bounds__(kBlock) sum_kernel(std::size_t count, F f, unsigned long long* total) {
    __shared__ unsigned long long here;
    if (threadIdx.x == 0) here = 0;
    __syncthreads();
    const std::size_t i = std::size_t{blockIdx.x} * kBlock + threadIdx.x;
    if (i < count) atomicAdd(&here, static_cast<unsigned long long>(f(i)));
    __syncthreads();
    if (threadIdx.x == 0) atomicAdd(total, here);
}

class Gpu {
    // Makes a device current; torch finds its own current again afterwards.
    class Current {
      public:
        explicit Current(int device) {
            check(cudaGetDevice(&before_));
            check(cudaSetDevice(device));
        }
        ~Current() { cudaSetDevice(before_); }
        Current(const Current&) = delete;
        Current& operator=(const Current&) = delete;

      private:
        int before_ = 0;
    };

  public:
    class Visit {
      public:
        Visit(Gpu& gpu, cudaStream_t stream) : gpu_(gpu), current_(gpu.device_) {
            if (stream != gpu.stream_) check(cudaStreamWaitEvent(stream, gpu.done_));
            gpu.stream_ = stream;
        }
        ~Visit() { cudaEventRecord(gpu_.done_, gpu_.stream_); }
        Visit(const Visit&) = delete;
        Visit& operator=(const Visit&) = delete;

      private:
        Gpu& gpu_;
        const Current current_;
    };

    Gpu(int device, std::size_t bytes) : device_(device) {
        const Current current(device);
        const cudaError_t error = cudaMalloc(&block_, bytes + sizeof *total_);
        if (error == cudaErrorMemoryAllocation) {
            cudaGetLastError();  // it does not stay
            std::size_t free = 0, all = 0;
            check(cudaMemGetInfo(&free, &all));
            throw OutOfMemory("out of memory on cuda:" + std::to_string(device) + ": the batch needs " +
                              std::to_string(bytes >> 20) + " MiB, " + std::to_string(free >> 20) + " MiB are free");
        }
        check(error);
        total_ = reinterpret_cast<unsigned long long*>(block_ + bytes);
        if (const cudaError_t made = cudaEventCreateWithFlags(&done_, cudaEventDisableTiming); made != cudaSuccess) {
            cudaFree(block_);
            check(made);
        }
    }
    // Waits for the work on the block: cudaFree does.
    ~Gpu() {
        int before = 0;
        cudaGetDevice(&before);
        cudaSetDevice(device_);
        cudaEventDestroy(done_);
        cudaFree(block_);
        cudaSetDevice(before);
    }
    Gpu(const Gpu&) = delete;
    Gpu& operator=(const Gpu&) = delete;

    std::byte* block() const { return block_; }
    int device() const { return device_; }
    void join(Stream stream) const {
        const auto reader = reinterpret_cast<cudaStream_t>(stream);
        if (reader == stream_) return;
        const Current current(device_);
        check(cudaStreamWaitEvent(reader, done_));
    }
    Visit enter(Stream stream) { return Visit(*this, reinterpret_cast<cudaStream_t>(stream)); }

    template <class F>
    void each(std::size_t count, const F& f) {
        if (count == 0) return;
        each_kernel<<<blocks(count), kBlock, 0, stream_>>>(count, f);
        check(cudaGetLastError());
    }
    template <class F>
    void each_bytes(std::size_t count, std::size_t width, const F& f, std::uint8_t* out) {
        if (count == 0) return;
        each_bytes_kernel<<<blocks(count), kBlock, kBlock * width, stream_>>>(count, width, f, out);
        check(cudaGetLastError());
    }
    template <class F>
    std::int64_t sum(std::size_t count, const F& f) {
        fill(total_, 0, sizeof *total_);
        sum_kernel<<<blocks(count), kBlock, 0, stream_>>>(count, f, total_);
        check(cudaGetLastError());
        std::int64_t total = 0;
        read(&total, total_, sizeof total);
        return total;
    }
    void fill(void* to, int byte, std::size_t bytes) { check(cudaMemsetAsync(to, byte, bytes, stream_)); }
    void copy(void* to, const void* from, std::size_t bytes) {
        check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_));
    }
    void read(void* to_host, const void* from, std::size_t bytes) {
        check(cudaMemcpyAsync(to_host, from, bytes, cudaMemcpyDeviceToHost, stream_));
        check(cudaStreamSynchronize(stream_));
    }

  private:
    static unsigned blocks(std::size_t count) { return static_cast<unsigned>((count + kBlock - 1) / kBlock); }

    int device_;
    std::byte* block_ = nullptr;
    unsigned long long* total_ = nullptr;  // of sum(), behind the block
    cudaEvent_t done_ = nullptr;           // after the last work
    cudaStream_t stream_ = nullptr;        // of the last work
};

}  // namespace spf
