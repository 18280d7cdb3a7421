// DLPack's public struct layout (github.com/dmlc/dlpack, unversioned capsules): arrays that other libraries take over
// without a copy. The receiver keeps the owner alive and releases it when its last view is gone.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace spf::dlpack {

enum DeviceType : std::int32_t { kCpu = 1, kCuda = 2 };
struct Device {
    std::int32_t type, id;
};
struct DataType {
    std::uint8_t code, bits;
    std::uint16_t lanes;
};
inline constexpr DataType kInt32{0, 32, 1}, kFloat32{2, 32, 1}, kBool{6, 8, 1};

struct Tensor {
    void* data;
    Device device;
    std::int32_t ndim;
    DataType dtype;
    std::int64_t* shape;
    std::int64_t* strides;  // null: rows lie one after the other
    std::uint64_t byte_offset;
};
struct ManagedTensor {
    Tensor tensor;
    void* context;
    void (*deleter)(ManagedTensor*);
};
static_assert(sizeof(Tensor) == 48 && offsetof(Tensor, dtype) == 20 && offsetof(Tensor, byte_offset) == 40);
static_assert(offsetof(ManagedTensor, deleter) == 56);

// A capsule for from_dlpack over memory that lives as long as owner.
inline pybind11::capsule capsule(pybind11::object owner, const void* data, std::vector<std::int64_t> shape,
                                 DataType dtype, Device device) {
    struct Held {
        ManagedTensor managed;
        std::vector<std::int64_t> shape;
        pybind11::object owner;
    };
    constexpr const char* kUnused = "dltensor";  // who takes the array over renames the capsule
    auto* const held = new Held{{}, std::move(shape), std::move(owner)};
    held->managed = {{const_cast<void*>(data), device, static_cast<std::int32_t>(held->shape.size()), dtype,
                      held->shape.data(), nullptr, 0},
                     held,
                     [](ManagedTensor* self) {
                         const pybind11::gil_scoped_acquire locked;  // any thread may drop the last view
                         delete static_cast<Held*>(self->context);
                     }};
    return pybind11::capsule(&held->managed, kUnused, [](PyObject* self) {
        if (PyCapsule_IsValid(self, kUnused) == 0) return;
        auto* const managed = static_cast<ManagedTensor*>(PyCapsule_GetPointer(self, kUnused));
        managed->deleter(managed);
    });
}

}  // namespace spf::dlpack
