// Whole numbers inside replies.
#pragma once

#include <optional>
#include <string_view>

namespace spf {

// The number that the words are, digits alone and at most nine of them, or nothing.
inline std::optional<int> read_number(std::string_view words) {
    if (words.empty() || words.size() > 9) return std::nullopt;
    int number = 0;
    for (const char c : words) {
        if (c < '0' || c > '9') return std::nullopt;
        number = number * 10 + (c - '0');
    }
    return number;
}

}  // namespace spf
