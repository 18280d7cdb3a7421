// A batch of any game in the memory of a GPU, without a word of CUDA: all that the bindings see.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/options.h"
#include "core/rows.h"

namespace spf {

using Stream = std::uintptr_t;  // a cudaStream_t

// Whole numbers in the memory of the device.
struct Numbers {
    const void* data = nullptr;
    std::size_t count = 0;
    bool wide = true;  // int64, else int32

    SPF_HD std::int64_t operator[](std::size_t i) const {
        return wide ? static_cast<const std::int64_t*>(data)[i] : static_cast<const std::int32_t*>(data)[i];
    }
};
using DeviceRows = std::optional<Numbers>;  // none: all rows, in order

struct OutOfMemory : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// As Batch, with pointers into the device's memory. Work is queued on the stream given, after all earlier work on the
// batch; a call waits for it only where it returns a number, a string or an error.
class DeviceBatch {
  public:
    virtual ~DeviceBatch() = default;
    virtual std::unique_ptr<DeviceBatch> copy(Stream stream) const = 0;

    virtual const GameInfo& info() const = 0;
    virtual std::int64_t size() const = 0;
    virtual int device() const = 0;

    // Columns of the batch: the addresses stay the same, the contents follow the games. A stream that reads one joins
    // first; the legal actions are brought up to date by their own call.
    virtual const std::int32_t* current_player() const = 0;  // [B]
    virtual const std::uint8_t* terminated() const = 0;      // [B]
    virtual const float* returns() const = 0;                // [B, P]
    virtual const std::uint8_t* legal_actions() const = 0;   // [B, A]
    virtual void join(Stream stream) const = 0;              // its later work waits for all earlier work on the batch
    virtual void update_legal_actions(Stream stream) = 0;

    // check: refuse an illegal action with std::invalid_argument before anything changes. Without, the caller answers
    // for rows and actions, and nothing is waited for.
    virtual void step(const Numbers& actions, const DeviceRows& rows, bool check, Stream stream) = 0;
    virtual void reset(const DeviceRows& rows, const DeviceRows& seeds, std::int64_t repeat, Stream stream) = 0;
    virtual void sample_actions(std::uint64_t seed, std::int64_t* out, Stream stream) const = 0;  // out: [B]
    virtual std::int64_t random_playouts(std::optional<std::uint64_t> seed, Stream stream) = 0;

    virtual std::vector<Action> history(std::int64_t row, Stream stream) const = 0;
    // What Batch::restore reads.
    virtual std::string snapshot(Stream stream) const = 0;
};

using DeviceMaker = std::unique_ptr<DeviceBatch> (*)(const OptionValues&, std::int64_t size, const BatchOptions&,
                                                     int device);
template <class Game>
DeviceMaker device_maker();  // one generated translation unit per game of cuda/device_games.h

// The GPUs there are; throws std::runtime_error saying why there are none.
int count_devices();

}  // namespace spf
