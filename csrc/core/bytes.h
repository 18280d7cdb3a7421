// Snapshots as bytes: fixed-width little-endian numbers, closed by a checksum.
#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>

#include "core/rng.h"

namespace spf {

inline std::uint64_t checksum(std::string_view bytes) {
    std::uint64_t sum = mix_seeds(0x5350464Bu, bytes.size());
    while (!bytes.empty()) {
        std::uint64_t word = 0;
        const std::size_t n = bytes.size() < 8 ? bytes.size() : 8;
        std::memcpy(&word, bytes.data(), n);
        sum = mix_seeds(sum, word);
        bytes.remove_prefix(n);
    }
    return sum;
}

class ByteWriter {
  public:
    template <class T>
        requires std::is_arithmetic_v<T>
    void number(T value) {
        bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
    }
    void text(std::string_view value) {
        number(static_cast<std::uint64_t>(value.size()));
        bytes_.append(value);
    }
    std::string finish() {
        number(checksum(bytes_));
        return std::move(bytes_);
    }

  private:
    std::string bytes_;
};

// Reads what ByteWriter wrote; anything else is a std::invalid_argument.
class ByteReader {
  public:
    explicit ByteReader(std::string_view bytes) : rest_(bytes) {
        if (bytes.size() < sizeof(std::uint64_t)) fail();
        std::uint64_t sum = 0;
        std::memcpy(&sum, bytes.data() + bytes.size() - sizeof sum, sizeof sum);
        rest_.remove_suffix(sizeof sum);
        if (sum != checksum(rest_)) fail();
    }
    template <class T>
        requires std::is_arithmetic_v<T>
    T number() {
        T value;
        if (rest_.size() < sizeof value) fail();
        std::memcpy(&value, rest_.data(), sizeof value);
        rest_.remove_prefix(sizeof value);
        return value;
    }
    std::string text() {
        const std::uint64_t size = number<std::uint64_t>();
        if (rest_.size() < size) fail();
        std::string value(rest_.substr(0, size));
        rest_.remove_prefix(size);
        return value;
    }
    void finish() const {
        if (!rest_.empty()) fail();
    }
    [[noreturn]] static void fail() { throw std::invalid_argument("snapshot is corrupt: take a new one with state()"); }

  private:
    std::string_view rest_;
};

}  // namespace spf
