// Reading the words of one action from the front, in lower case and with single blanks.
#pragma once

#include <cstddef>
#include <string_view>

namespace spf {

inline bool skip_word(std::string_view& words, std::string_view word) {
    if (!words.starts_with(word)) return false;
    words.remove_prefix(word.size());
    return true;
}

// How many leading characters out of a set were dropped.
inline std::size_t skip_any(std::string_view& words, std::string_view characters) {
    const std::size_t end = words.find_first_not_of(characters);
    const std::size_t count = end == std::string_view::npos ? words.size() : end;
    words.remove_prefix(count);
    return count;
}

// A number of at most six digits, or -1.
inline int take_number(std::string_view& words) {
    int value = 0;
    std::size_t digits = 0;
    for (; digits < words.size() && words[digits] >= '0' && words[digits] <= '9'; ++digits) {
        if (digits == 6) return -1;
        value = value * 10 + (words[digits] - '0');
    }
    words.remove_prefix(digits);
    return digits == 0 ? -1 : value;
}

}  // namespace spf
