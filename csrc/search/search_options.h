// How a tree is searched; search.py says what each option means.
#pragma once

#include <cstddef>
#include <cstdint>

namespace spf {

enum class Rule : std::uint8_t { kUct, kPuct, kGumbel };

struct SearchOptions {
    Rule rule = Rule::kUct;
    int simulations = 100;
    float c = 2.0f;               // weight of exploration in UCT and PUCT
    int rollouts = 1;             // per leaf; 0: a leaf is worth nothing until it is over
    bool solve = false;           // prove wins and losses, in UCT where there are two players and no chance
    bool insist = false;          // on solving: elsewhere it is refused
    bool transpositions = false;  // a position is one node, whichever way leads to it
    int considered = 16;          // actions that Gumbel search begins with
    float noise = 0.0f;           // share of Dirichlet noise in the priors at the root
    float alpha = 0.3f;           // its concentration
    float virtual_loss = 1.0f;
    float temperature = 0.0f;  // actions are drawn by visits^(1 / temperature); 0: the best one
    std::size_t max_bytes = std::size_t{1} << 31;
};

}  // namespace spf
