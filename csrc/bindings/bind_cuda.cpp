// The Python class CudaBatch: games in the memory of a GPU. Tensors come and go by address; selfplay_fast/cuda_batch.py
// checks them and says which stream they belong to. Without CUDA the names are the same and every call says what is
// missing.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "bindings/bind_games.h"
#include "bindings/dlpack.h"
#include "cuda/device_batch.h"
#include "cuda/device_games.h"

namespace py = pybind11;

namespace spf {

#if defined(SPF_CUDA)
#define SPF_DECLARE(Game) \
    template <>           \
    DeviceMaker device_maker<Game>();
SPF_FOR_EACH_DEVICE_GAME(SPF_DECLARE)
#undef SPF_DECLARE
#endif

namespace {

using Makers = std::map<std::string, DeviceMaker, std::less<>>;
using Address = std::tuple<std::uintptr_t, std::size_t, bool>;  // of whole numbers: where, how many, int64 or int32

#if defined(SPF_CUDA)
Makers makers() {
    Makers all;
#define SPF_ENTER(Game) all.emplace(std::string(Game::kName), device_maker<Game>());
    SPF_FOR_EACH_DEVICE_GAME(SPF_ENTER)
#undef SPF_ENTER
    return all;
}
int devices() { return count_devices(); }
#else
[[noreturn]] void refuse() {
    throw std::runtime_error(
        "device=\"cuda\" needs a build with CUDA: pip install -Ccmake.define.SPF_CUDA=ON . where nvcc is on PATH");
}
Makers makers() { refuse(); }
int devices() { refuse(); }
#endif

std::unique_ptr<DeviceBatch> make(const std::string& name, const OptionValues& options, std::int64_t size,
                                  std::uint64_t seed, const std::string& chance, const std::string& autoreset,
                                  int device) {
    const Makers all = makers();
    const auto found = all.find(name);
    if (found == all.end()) {
        std::string names;
        for (const auto& [other, maker] : all) names += (names.empty() ? "" : ", ") + other;
        throw std::invalid_argument(name + ": is not built for GPUs; there are: " + names);
    }
    return found->second(options, size, batch_options(size, seed, 1, chance, autoreset), device);
}

Numbers numbers(const Address& address) {
    const auto& [data, count, wide] = address;
    return {reinterpret_cast<const void*>(data), count, wide};
}
DeviceRows numbers(const std::optional<Address>& address) {
    if (!address) return std::nullopt;
    return numbers(*address);
}

// A DLPack capsule of a column; width 0: one number per game.
template <class Column>
auto column(Column get, dlpack::DataType dtype, int GameInfo::* width) {
    return [=](const py::object& self) {
        auto& b = self.cast<DeviceBatch&>();
        std::vector<std::int64_t> shape{b.size()};
        if (width != nullptr) shape.push_back(b.info().*width);
        return dlpack::capsule(self, (b.*get)(), std::move(shape), dtype, {dlpack::kCuda, b.device()});
    };
}

}  // namespace

void bind_cuda(py::module_& m) {
    py::register_local_exception_translator([](std::exception_ptr thrown) {
        try {
            if (thrown) std::rethrow_exception(thrown);
        } catch (const OutOfMemory& error) {
            PyErr_SetString(PyExc_MemoryError, error.what());
        }
    });
    m.def("cuda_devices", &devices,
          "The number of GPUs; RuntimeError where there are none or the build is without CUDA");

    using Unlocked = py::call_guard<py::gil_scoped_release>;
    py::class_<DeviceBatch>(m, "CudaBatch", "Games in the memory of a GPU; calls are queued on a stream")
        .def(py::init(&make), py::arg("name"), py::arg("options"), py::arg("batch_size"), py::arg("seed"),
             py::arg("chance"), py::arg("autoreset"), py::arg("device"))
        .def("__len__", &DeviceBatch::size)
        .def("current_player", column(&DeviceBatch::current_player, dlpack::kInt32, nullptr))
        .def("terminated", column(&DeviceBatch::terminated, dlpack::kBool, nullptr))
        .def("returns", column(&DeviceBatch::returns, dlpack::kFloat32, &GameInfo::num_players))
        .def("legal_actions", column(&DeviceBatch::legal_actions, dlpack::kBool, &GameInfo::num_actions))
        .def("join", &DeviceBatch::join, py::arg("stream"))
        .def("update_legal_actions", &DeviceBatch::update_legal_actions, py::arg("stream"))
        .def(
            "step",
            [](DeviceBatch& b, const Address& actions, const std::optional<Address>& rows, bool check, Stream stream) {
                b.step(numbers(actions), numbers(rows), check, stream);
            },
            py::arg("actions"), py::arg("rows"), py::arg("check"), py::arg("stream"), Unlocked())
        .def(
            "reset",
            [](DeviceBatch& b, const std::optional<Address>& rows, const std::optional<Address>& seeds,
               std::int64_t repeat, Stream stream) { b.reset(numbers(rows), numbers(seeds), repeat, stream); },
            py::arg("rows"), py::arg("seeds"), py::arg("repeat"), py::arg("stream"), Unlocked())
        .def(
            "sample_actions",
            [](const DeviceBatch& b, std::uint64_t seed, std::uintptr_t out, Stream stream) {
                b.sample_actions(seed, reinterpret_cast<std::int64_t*>(out), stream);
            },
            py::arg("seed"), py::arg("out"), py::arg("stream"), Unlocked(), "Writes int64[B] to the address out.")
        .def("random_playouts", &DeviceBatch::random_playouts, py::arg("seed"), py::arg("stream"), Unlocked())
        .def("history", &DeviceBatch::history, py::arg("row"), py::arg("stream"))
        .def("copy", &DeviceBatch::copy, py::arg("stream"), Unlocked())
        .def(
            "state", [](const DeviceBatch& b, Stream stream) { return py::bytes(b.snapshot(stream)); },
            py::arg("stream"), "What GameBatch.set_state reads.");
}

}  // namespace spf
