// A search tree in two flat arrays: nodes, and the edges of every opened node side by side. Statistics lie on edges,
// where selection reads them; a node is looked at only when it is entered.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "core/game.h"
#include "search/transpositions.h"

namespace spf {

// An action at an opened node. Two words hold three numbers: visits and link of 24 bits, a mark of 16.
class Edge {
  public:
    static constexpr std::uint32_t kMost = (1u << 24) - 1;  // visits of an edge, nodes of a tree
    static constexpr std::uint32_t kSure = 0xFFFF;          // a prior of 1

    float total = 0.0f;  // of the returns of whoever chooses here

    Edge() = default;
    Edge(Action action, std::uint32_t prior)
        : visits_(prior << 24), link_(static_cast<std::uint32_t>(action) | (prior >> 8) << 24) {}

    std::uint32_t visits() const { return visits_ & kMost; }
    void visit() { ++visits_; }
    // The node it leads to once it was visited, until then its action, which the node then keeps.
    std::uint32_t link() const { return link_ & kMost; }
    void set_link(std::uint32_t node) { link_ = (link_ & ~kMost) | node; }
    // A prior in units of 1 / kSure; in UCT, which has none, 1 where the game is over.
    std::uint32_t mark() const { return (visits_ >> 24) | (link_ >> 24) << 8; }
    void set_mark(std::uint32_t mark) {
        visits_ = visits() | mark << 24;
        link_ = link() | mark >> 8 << 24;
    }
    void mark_over() { visits_ |= 1u << 24; }
    bool is_over() const { return visits_ >> 24 != 0; }
    float mean() const { return visits() == 0 ? 0.0f : total / static_cast<float>(visits()); }

  private:
    std::uint32_t visits_ = 0, link_ = 0;
};
static_assert(sizeof(Edge) == 12);

struct Node {
    std::uint32_t first = 0;  // of its edges; those visited come first
    std::uint32_t next = 0;   // another outcome of the same action, or the node that this one is an alias of; 0: none
    std::uint32_t key = 0;    // what nature did after the action
    std::uint16_t action = 0;
    std::uint16_t count = 0, tried = 0;  // edges, and how many of them were visited; count 0: not opened yet
    std::int8_t player = 0;
    bool proven : 1 = false;
    bool alias : 1 = false;         // nothing but an action that leads to a position met before
    float worth[2] = {0.0f, 0.0f};  // proven: the return of either player; else [0] is the evaluator's, for its player
};
static_assert(sizeof(Node) == 28);

// One of the edges that a descent followed, and who chose it.
struct Step {
    std::uint32_t edge;
    Player player;
};

class Tree {
  public:
    std::vector<Node> nodes;
    std::vector<Edge> edges;
    TranspositionTable positions;  // empty unless positions are shared

    void clear() {
        nodes.clear();
        edges.clear();
        positions.clear();
    }
    void clear(std::size_t max_bytes) {
        clear();
        max_bytes_ = max_bytes;
    }
    std::size_t bytes() const { return nodes.size() * sizeof(Node) + edges.size() * sizeof(Edge) + positions.bytes(); }

    std::uint32_t add_node(Player player, Action action, std::uint32_t key) {
        if (nodes.size() == nodes.capacity() || nodes.size() > Edge::kMost) check_room();
        Node& node = nodes.emplace_back();
        node.player = static_cast<std::int8_t>(player);
        node.action = static_cast<std::uint16_t>(action);
        node.key = key;
        return static_cast<std::uint32_t>(nodes.size() - 1);
    }
    // Another way to a node.
    std::uint32_t add_alias(Action action, std::uint32_t of) {
        const std::uint32_t alias = add_node(nodes[of].player, action, 0);
        nodes[alias].alias = true;
        nodes[alias].next = of;
        return alias;
    }
    // The node that an edge which was visited leads to.
    std::uint32_t node_after(const Edge& edge) const {
        const Node& node = nodes[edge.link()];
        return node.alias ? node.next : edge.link();
    }
    // One edge per legal action; prior(action) in units of 1 / Edge::kSure.
    template <int N, class Prior>
    void open(std::uint32_t at, const ActionSet<N>& legal, const Prior& prior) {
        const std::size_t first = edges.size();
        const auto count = static_cast<std::size_t>(legal.size());
        if (first + count > edges.capacity()) check_room();
        edges.resize(first + count);
        Edge* edge = &edges[first];
        for (const Action action : legal) *edge++ = Edge(action, prior(action));
        nodes[at].first = static_cast<std::uint32_t>(first);
        nodes[at].count = static_cast<std::uint16_t>(count);
    }
    std::span<Edge> edges_of(const Node& node) { return {edges.data() + node.first, node.count}; }
    std::span<const Edge> edges_of(const Node& node) const { return {edges.data() + node.first, node.count}; }
    // Moves an edge that was never visited behind those that were.
    std::uint32_t try_edge(Node& node, std::uint32_t edge) {
        const std::uint32_t place = node.first + node.tried++;
        std::swap(edges[place], edges[edge]);
        return place;
    }
    Action action_of(const Edge& edge) const {
        return edge.visits() == 0 ? static_cast<Action>(edge.link()) : nodes[edge.link()].action;
    }
    // The node after an edge and what nature did then; 0 if that has not come up yet.
    std::uint32_t outcome(const Edge& edge, std::uint32_t key) const {
        std::uint32_t at = edge.link();
        while (at != 0 && nodes[at].key != key) at = nodes[at].next;
        return at;
    }

    // The tree below a node, which becomes the root.
    Tree below(std::uint32_t root) const {
        Tree cut;
        cut.max_bytes_ = max_bytes_;
        cut.nodes.push_back(nodes[root]);
        cut.nodes[0].next = 0;
        std::vector<std::uint32_t> numbers(positions.bytes() == 0 ? 0 : nodes.size());  // of shared nodes in the cut
        for (std::size_t at = 0; at < cut.nodes.size(); ++at) {  // breadth first: `first` still means the old edges
            const Node node = cut.nodes[at];
            if (node.count == 0) continue;
            const auto first = static_cast<std::uint32_t>(cut.edges.size());
            for (std::uint32_t i = 0; i < node.count; ++i) {
                Edge edge = edges[node.first + i];
                if (i < node.tried) {
                    edge.set_link(numbers.empty() ? cut.copy_outcomes(*this, edge.link())
                                                  : cut.copy_shared(*this, edge, numbers));
                }
                cut.edges.push_back(edge);
            }
            cut.nodes[at].first = first;
        }
        cut.positions = positions.renumbered(numbers);
        return cut;
    }

  private:
    std::uint32_t copy_outcomes(const Tree& from, std::uint32_t old) {
        const auto first = static_cast<std::uint32_t>(nodes.size());
        for (; old != 0; old = from.nodes[old].next) {
            nodes.push_back(from.nodes[old]);
            if (nodes.back().next != 0) nodes.back().next = static_cast<std::uint32_t>(nodes.size());
        }
        return first;
    }
    std::uint32_t copy_shared(const Tree& from, const Edge& edge, std::vector<std::uint32_t>& numbers) {
        const Action action = from.action_of(edge);
        const std::uint32_t old = from.node_after(edge);
        if (numbers[old] != 0) return add_alias(action, numbers[old]);
        nodes.push_back(from.nodes[old]);
        nodes.back().action = static_cast<std::uint16_t>(action);
        return numbers[old] = static_cast<std::uint32_t>(nodes.size() - 1);
    }
    void check_room() const {
        if (bytes() <= max_bytes_ && nodes.size() <= Edge::kMost) return;
        throw std::length_error("max_bytes: a tree outgrew its share of " + std::to_string(max_bytes_) +
                                " bytes; raise max_bytes, or search fewer rows or simulations");
    }

    std::size_t max_bytes_ = 0;
};

}  // namespace spf
