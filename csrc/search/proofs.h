// Forced results of games of two players without chance, marked on the nodes of a tree.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "core/game.h"
#include "search/tree.h"

namespace spf {

inline bool is_proven(const Tree& tree, const Edge& edge) {
    return edge.visits() != 0 && tree.nodes[tree.node_after(edge)].proven;
}
inline float proven_worth(const Tree& tree, const Edge& edge, Player player) {
    return tree.nodes[tree.node_after(edge)].worth[player];
}

// The leaf at the end of a way is worth these returns, and so may be what lies on the way: a node is proven where an
// action beats the other player, or where all actions are proven.
template <class Returns>
void prove(Tree& tree, std::span<const Step> way, std::uint32_t leaf, const Returns& returns) {
    Node* below = &tree.nodes[leaf];
    below->proven = true;
    std::copy_n(returns.begin(), 2, below->worth);
    for (std::size_t depth = way.size(); depth-- > 0;) {
        Node& node = tree.nodes[depth == 0 ? 0 : tree.node_after(tree.edges[way[depth - 1].edge])];
        const Player mover = node.player;
        const Node* best = below;
        if (!(below->worth[mover] > below->worth[1 - mover])) {
            if (node.tried < node.count) return;
            for (const Edge& edge : tree.edges_of(node)) {
                if (!is_proven(tree, edge)) return;
                const Node& other = tree.nodes[tree.node_after(edge)];
                if (other.worth[mover] > best->worth[mover]) best = &other;
            }
        }
        node.proven = true;
        std::copy_n(best->worth, 2, node.worth);
        below = &node;
    }
}

}  // namespace spf
