// Attention masks of token-tree blocks: who may attend to whom.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace spf {

// A run of R blocks: node_exit of the whole tree, offsets [R + 1] into it.
struct MaskBlocks {
    std::span<const std::int32_t> node_exit;
    std::span<const std::int64_t> offsets;

    std::size_t count() const { return offsets.size() - 1; }
    std::span<const std::int32_t> operator[](std::size_t r) const {
        const auto begin = static_cast<std::size_t>(offsets[r]);
        return node_exit.subspan(begin, static_cast<std::size_t>(offsets[r + 1]) - begin);
    }
    std::size_t widest() const {
        std::size_t width = 0;
        for (std::size_t r = 0; r < count(); ++r) width = std::max(width, (*this)[r].size());
        return width;
    }
};

// Throws std::invalid_argument unless the offsets lie in node_exit and the exits describe nested ranges.
inline void check_mask_blocks(const MaskBlocks& blocks) {
    const auto fail = [](const std::string& message) { throw std::invalid_argument("tree_mask: " + message); };
    const auto& offsets = blocks.offsets;
    if (offsets.size() < 2) fail("block_offsets needs at least two elements, the ends of one block");
    if (offsets.front() < 0 || offsets.back() > static_cast<std::int64_t>(blocks.node_exit.size()))
        fail("block_offsets must lie between 0 and the length of node_exit");
    if (!std::is_sorted(offsets.begin(), offsets.end())) fail("block_offsets must not decrease");
    std::vector<std::int64_t> open;
    for (std::size_t r = 0; r < blocks.count(); ++r) {
        const auto exits = blocks[r];
        open.assign(1, static_cast<std::int64_t>(exits.size()));
        for (std::size_t node = 0; node < exits.size(); ++node) {
            while (open.back() <= static_cast<std::int64_t>(node)) open.pop_back();
            if (exits[node] <= static_cast<std::int64_t>(node) || exits[node] > open.back())
                fail("node_exit is not a depth-first order in block " + std::to_string(r));
            open.push_back(exits[node]);
        }
    }
}

// Fills mask [R, width, shared + width], zero before: a node sees the shared positions, its ancestors and
// itself; a padded row sees itself alone, so that no softmax is over nothing. Trusts its caller.
inline void fill_tree_mask(const MaskBlocks& blocks, std::size_t shared, std::size_t width, std::span<bool> mask) {
    const std::size_t columns = shared + width;
    std::vector<std::size_t> path;
    for (std::size_t r = 0; r < blocks.count(); ++r) {
        const auto exits = blocks[r];
        path.clear();
        for (std::size_t i = 0; i < width; ++i) {
            const std::span<bool> row = mask.subspan((r * width + i) * columns, columns);
            row[shared + i] = true;
            if (i >= exits.size()) continue;
            std::fill_n(row.begin(), shared, true);
            while (!path.empty() && static_cast<std::size_t>(exits[path.back()]) <= i) path.pop_back();
            for (const std::size_t ancestor : path) row[shared + ancestor] = true;
            path.push_back(i);
        }
    }
}

}  // namespace spf
