// Untrusted text: makes any bytes valid UTF-8 on one line, cut to a length, harmless inside a prompt.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace spf {

// Length of the well-formed UTF-8 sequence at the start of text (no overlong forms, no surrogates), or 0.
inline std::size_t utf8_length(std::string_view text) {
    const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
    const auto continues = [&](std::size_t i) { return (byte(i) & 0xC0u) == 0x80u; };
    const unsigned first = byte(0);
    if (first < 0x80) return text.empty() ? 0 : 1;
    if (first >= 0xC2 && first <= 0xDF) return continues(1) ? 2 : 0;
    if (first >= 0xE0 && first <= 0xEF) {
        if (first == 0xE0 && byte(1) < 0xA0) return 0;
        if (first == 0xED && byte(1) > 0x9F) return 0;
        return continues(1) && continues(2) ? 3 : 0;
    }
    if (first >= 0xF0 && first <= 0xF4) {
        if (first == 0xF0 && byte(1) < 0x90) return 0;
        if (first == 0xF4 && byte(1) > 0x8F) return 0;
        return continues(1) && continues(2) && continues(3) ? 4 : 0;
    }
    return 0;
}

// Where a character last stands in text, or npos.
inline std::size_t last_of(std::string_view text, char c) {
#if defined(__GLIBC__)
    const void* const found = text.empty() ? nullptr : memrchr(text.data(), c, text.size());
    return found == nullptr ? std::string_view::npos
                            : static_cast<std::size_t>(static_cast<const char*>(found) - text.data());
#else
    return text.rfind(c);
#endif
}

inline bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

inline std::string_view trim(std::string_view text) {
    while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
    while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
    return text;
}

// At most max_characters code points of text as one valid line: broken bytes become U+FFFD, white space and control
// characters one blank, and "<|" and "|>" are pulled apart, so that nobody can speak a chat template's markers.
inline std::string sanitize(std::string_view text, std::size_t max_characters) {
    std::string out;
    std::size_t written = 0;
    text = trim(text);
    while (!text.empty()) {
        if (written == max_characters) {
            out += "...";
            break;
        }
        const std::size_t length = utf8_length(text);
        const unsigned char first = static_cast<unsigned char>(text.front());
        const bool c1_control = length == 2 && first == 0xC2 && static_cast<unsigned char>(text[1]) < 0xA0;
        const bool line_break = text.starts_with("\xE2\x80\xA8") || text.starts_with("\xE2\x80\xA9");
        if ((length == 1 && (first <= 0x20 || first == 0x7F)) || c1_control || line_break) {
            if (out.empty() || out.back() != ' ') {
                out += ' ';
                ++written;
            }
        } else if (length == 0) {
            out += "\xEF\xBF\xBD";
            ++written;
        } else {
            const bool marker =
                !out.empty() && ((out.back() == '<' && first == '|') || (out.back() == '|' && first == '>'));
            if (marker) out += ' ';
            out.append(text.substr(0, length));
            ++written;
        }
        text.remove_prefix(length == 0 ? 1 : length);
    }
    return out;
}

// As a player's words go into the texts of others: no quotes that could end them early, no brackets that could pass for
// moves.
inline std::string sanitize_speech(std::string_view text, std::size_t max_characters) {
    if (max_characters == 0) return {};
    std::string out = sanitize(text, max_characters);
    for (char& c : out) {
        if (c == '"') c = '\'';
        if (c == '[') c = '(';
        if (c == ']') c = ')';
    }
    return out;
}

}  // namespace spf
