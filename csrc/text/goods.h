// Lists of goods in words: "2 Wood, 1 Gold" to amounts and back.
#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>

#include "games/negotiation.h"
#include "text/utf8.h"

namespace spf {

inline std::string_view good_name(const Negotiation& game, int good) {
    constexpr std::string_view kTwo[] = {"Wood", "Gold"};
    constexpr std::string_view kFive[] = {"Wheat", "Wood", "Sheep", "Brick", "Gold"};
    constexpr std::string_view kEight[] = {"Wheat", "Fish", "Wood", "Sheep", "Stone", "Brick", "Silver", "Gold"};
    return game.resources == 2 ? kTwo[good] : game.resources == 5 ? kFive[good] : kEight[good];
}

inline char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }
inline bool is_digit(char c) { return c >= '0' && c <= '9'; }
inline bool is_letter(char c) { return lower(c) >= 'a' && lower(c) <= 'z'; }

inline bool same_letters(std::string_view a, std::string_view b) {
    if (a.size() != b.size()) return false;
    for (std::size_t i = 0; i < a.size(); ++i) {
        if (lower(a[i]) != lower(b[i])) return false;
    }
    return true;
}
inline bool starts_with_letters(std::string_view text, std::string_view start) {
    return same_letters(text.substr(0, start.size()), start);
}

// The good of that name, singular or plural, or -1.
inline int good_named(const Negotiation& game, std::string_view name) {
    for (int good = 0; good < game.resources; ++good) {
        const std::string_view known = good_name(game, good);
        if (same_letters(name, known)) return good;
        if (name.size() == known.size() + 1 && lower(name.back()) == 's' && starts_with_letters(name, known))
            return good;
    }
    return -1;
}

inline void append_goods(const Negotiation& game, const Negotiation::Goods& goods, std::string& out) {
    bool first = true;
    for (int good = 0; good < game.resources; ++good) {
        if (goods.amount[good] == 0) continue;
        if (!first) out += ", ";
        out += std::to_string(goods.amount[good]) + " " + std::string(good_name(game, good));
        first = false;
    }
}

// Reads such a list, duplicates added up; amounts above what anybody can hold count as that bound. Separators are
// commas and "and"; if loose also '+' or nothing.
class GoodsReader {
  public:
    GoodsReader(const Negotiation& game, std::string_view text, bool loose) : game_(game), rest_(text), loose_(loose) {}

    std::optional<Negotiation::Goods> read() {
        Negotiation::Goods goods;
        skip_commas();
        while (!rest_.empty()) {
            if (!read_item(goods) || !read_separator()) return std::nullopt;
        }
        if (goods.empty()) return std::nullopt;
        return goods;
    }

  private:
    void skip_blanks() {
        while (!rest_.empty() && is_space(rest_.front())) rest_.remove_prefix(1);
    }
    bool skip_commas() {
        const std::size_t before = rest_.size();
        bool comma = false;
        for (;;) {
            skip_blanks();
            if (rest_.empty() || !(rest_.front() == ',' || (loose_ && rest_.front() == '+'))) break;
            comma = true;
            rest_.remove_prefix(1);
        }
        return comma || (loose_ && rest_.size() != before);
    }
    bool read_item(Negotiation::Goods& goods) {
        int amount = 0;
        std::size_t digits = 0;
        for (; digits < rest_.size() && is_digit(rest_[digits]); ++digits) {
            amount = std::min(amount * 10 + (rest_[digits] - '0'), Negotiation::kMaxAmount);
        }
        if (digits == 0 || amount == 0) return false;
        rest_.remove_prefix(digits);
        if (rest_.empty() || !is_space(rest_.front())) return false;
        skip_blanks();
        std::size_t letters = 0;
        while (letters < rest_.size() && is_letter(rest_[letters])) ++letters;
        const int good = good_named(game_, rest_.substr(0, letters));
        if (good < 0) return false;
        rest_.remove_prefix(letters);
        std::uint8_t& total = goods.amount[good];
        total = static_cast<std::uint8_t>(std::min(total + amount, Negotiation::kMaxAmount));
        return true;
    }
    // After an item: the end, or a separator with an item behind it (a comma may also close the list).
    bool read_separator() {
        const bool blank = !rest_.empty() && is_space(rest_.front());
        const bool comma = skip_commas();
        if (rest_.empty()) return true;
        constexpr std::string_view kAnd = "and";
        if ((blank || (loose_ && comma)) && starts_with_letters(rest_, kAnd) && rest_.size() > kAnd.size() &&
            is_space(rest_[kAnd.size()])) {
            rest_.remove_prefix(kAnd.size());
            skip_commas();
            return !rest_.empty();
        }
        return comma || (loose_ && blank);
    }

    const Negotiation& game_;
    std::string_view rest_;
    bool loose_;
};

// Both sides of "2 Wood -> 1 Gold"; the answer of the move stays empty.
inline std::optional<Negotiation::Move> read_offer(const Negotiation& game, std::string_view text, bool loose) {
    constexpr std::string_view kArrows[] = {"->", "\\longrightarrow", "\\rightarrow", "\\Rightarrow", "\\to"};
    text = trim(text);
    while (!text.empty() && std::string_view(".,!? ").find(text.back()) != std::string_view::npos)
        text.remove_suffix(1);
    for (const std::string_view lead : {"I give", "I offer"}) {
        if (starts_with_letters(text, lead) && text.size() > lead.size() && is_space(text[lead.size()])) {
            text = trim(text.substr(lead.size()));
            break;
        }
    }
    std::size_t at = std::string_view::npos, length = 0;
    for (const std::string_view arrow : kArrows) {
        at = text.find(arrow);
        length = arrow.size();
        if (at != std::string_view::npos || !loose) break;
    }
    if (at == std::string_view::npos) return std::nullopt;
    const auto give = GoodsReader(game, trim(text.substr(0, at)), loose).read();
    const auto want = GoodsReader(game, trim(text.substr(at + length)), loose).read();  // a second arrow is no good
    if (!give || !want) return std::nullopt;
    return Negotiation::Move{Negotiation::Answer::kNone, *give, *want};
}

}  // namespace spf
