// Python faces of csrc/solvers: solver_form makes a GameTree or Positions of any game; Cfr and
// MonteCarloCfr work on the former. They know no game; games.h of the bindings makes them.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bindings/solver_form.h"
#include "games/all_games.h"
#include "solvers/best_response.h"
#include "solvers/cfr.h"
#include "solvers/game_tree.h"
#include "solvers/monte_carlo_cfr.h"
#include "solvers/positions.h"

namespace py = pybind11;

#define SPF_DECLARE(Game) \
    template <>           \
    spf::SolverForm spf::solver_form<spf::Game>(const OptionValues&, std::int64_t);
SPF_FOR_EACH_GAME(SPF_DECLARE)
#undef SPF_DECLARE

namespace {

spf::SolverForm form_of(const std::string& name, const std::map<std::string, spf::OptionValue>& options,
                        std::int64_t max_nodes) {
    const spf::OptionValues values(options.begin(), options.end());
#define SPF_TRY(Game) \
    if (name == spf::Game::kName) return spf::solver_form<spf::Game>(values, max_nodes);
    SPF_FOR_EACH_GAME(SPF_TRY)
#undef SPF_TRY
    throw std::invalid_argument("unknown game '" + name + "'");
}

using Table = py::array_t<double, py::array::c_style>;

// Policies [K, I, A] or one policy [I, A], checked, one span each.
template <class Form>
std::vector<spf::PolicyTable> policies(const Form& form, const Table& tables, py::ssize_t dimensions) {
    const auto states = static_cast<py::ssize_t>(form.states.size()), actions = static_cast<py::ssize_t>(form.actions);
    if (tables.ndim() != dimensions || tables.shape(dimensions - 2) != states ||
        tables.shape(dimensions - 1) != actions)
        throw std::invalid_argument("policy must have the shape [" + std::string(dimensions == 3 ? "K, " : "") +
                                    std::to_string(states) + ", " + std::to_string(actions) + "]");
    const auto size = static_cast<std::size_t>(states * actions);
    const auto count = dimensions == 3 ? static_cast<std::size_t>(tables.shape(0)) : std::size_t{1};
    std::vector<spf::PolicyTable> result;
    for (std::size_t k = 0; k < count; ++k) {
        result.emplace_back(tables.data() + k * size, size);
        spf::check_policy(form.states, form.actions, result.back());
    }
    return result;
}

template <class Form>
std::size_t checked_player(const Form& form, int player) {
    if (player < 0 || static_cast<std::size_t>(player) >= form.players)
        throw std::invalid_argument("player must be from 0 to " + std::to_string(form.players - 1));
    return static_cast<std::size_t>(player);
}

template <class Form>
py::array_t<double> as_table(const Form& form, const std::vector<double>& values) {
    const auto states = static_cast<py::ssize_t>(form.states.size());
    py::array_t<double> table({states, static_cast<py::ssize_t>(form.actions)});
    std::copy(values.begin(), values.end(), table.mutable_data());
    return table;
}

// ---- what both forms can do ----

std::vector<double> values_of(const spf::GameTree& tree, spf::PolicyTable policy) {
    return spf::TreeValues(tree).expected(tree.strategy(policy));
}
std::vector<double> values_of(const spf::Positions& positions, spf::PolicyTable policy) {
    std::vector<double> values;
    for (std::size_t player = 0; player < positions.players; ++player)
        values.push_back(positions.value(player, policy));
    return values;
}

// The policy with the rows of one player replaced by its best response, and that player's value.
double respond(const spf::GameTree& tree, std::size_t player, std::vector<double>& policy) {
    std::vector<double> strategy = tree.strategy(policy), response = strategy;
    const double value = spf::TreeValues(tree).best_response(player, strategy, response);
    policy = tree.policy(response);
    return value;
}
double respond(const spf::Positions& positions, std::size_t player, std::vector<double>& policy) {
    std::vector<double> response = policy;
    for (std::size_t i = 0; i < positions.states.size(); ++i)
        if (positions.states[i].player == static_cast<spf::Player>(player))
            std::fill_n(response.begin() + static_cast<std::ptrdiff_t>(i * positions.actions), positions.actions, 0.0);
    const double value = positions.value(player, policy, true, response);
    policy = std::move(response);
    return value;
}

void nash_convs(const spf::GameTree& tree, const std::vector<spf::PolicyTable>& tables, std::span<double> out) {
    spf::TreeValues values(tree);
    std::vector<double> strategy = tree.uniform();
    for (std::size_t k = 0; k < tables.size(); ++k) {
        tree.read(tables[k], strategy);
        out[k] = values.nash_conv(strategy);
    }
}
void nash_convs(const spf::Positions& positions, const std::vector<spf::PolicyTable>& tables, std::span<double> out) {
    for (std::size_t k = 0; k < tables.size(); ++k) out[k] = positions.nash_conv(tables[k]);
}

template <class Form, class... Extra>
void def_form(py::class_<Form, Extra...>& form) {
    form.def_readonly("num_players", &Form::players);
    form.def_readonly("num_actions", &Form::actions);
    form.def_readonly("information_states", &Form::states, "list[InformationState], the rows I of policy tables");
    form.def(
        "policy_value",
        [](const Form& self, const Table& policy) { return values_of(self, policies(self, policy, 2)[0]); },
        py::arg("policy"), "Expected return of every player; policy float64[I, A].");
    form.def(
        "best_response",
        [](const Form& self, const Table& policy, int player) {
            const auto given = policies(self, policy, 2)[0];
            std::vector<double> table(given.begin(), given.end());
            const double value = respond(self, checked_player(self, player), table);
            return py::make_tuple(as_table(self, table), value);
        },
        py::arg("policy"), py::arg("player"),
        "(policy with the player's rows replaced by a best response to the others, the player's value).");
    form.def(
        "nash_conv",
        [](const Form& self, const Table& tables) {
            const auto checked = policies(self, tables, 3);
            py::array_t<double> result(static_cast<py::ssize_t>(checked.size()));
            const std::span<double> out(result.mutable_data(), checked.size());
            py::gil_scoped_release unlocked;
            nash_convs(self, checked, out);
            return result;
        },
        py::arg("policies"), "NashConv float64[K] of policies float64[K, I, A].");
}

// What iterative solvers share: run and average_policy.
template <class Solver>
void def_solver(py::class_<Solver>& solver) {
    solver.def(
        "run",
        [](Solver& self, std::int64_t iterations) {
            if (iterations < 0) throw std::invalid_argument("iterations must be >= 0");
            py::gil_scoped_release unlocked;
            self.run(iterations);
        },
        py::arg("iterations"));
    solver.def(
        "average_policy", [](const Solver& self) { return as_table(self.tree(), self.tree().policy(self.average())); },
        "float64[I, A]; uniform where no iteration went.");
}

void bind_cfr(py::module_& m) {
    py::class_<spf::Cfr> cfr(m, "Cfr", "Counterfactual regret minimisation with alternating updates.");
    cfr.def(py::init([](const spf::GameTree& tree, double alpha, double beta, double gamma) {
                if (std::isnan(alpha)) throw std::invalid_argument("alpha must be a number");
                if (std::isnan(beta)) throw std::invalid_argument("beta must be a number");
                if (!(gamma >= 0.0) || std::isinf(gamma)) throw std::invalid_argument("gamma must be a number >= 0");
                return spf::Cfr(tree, {alpha, beta, gamma});
            }),
            py::arg("tree"), py::arg("alpha"), py::arg("beta"), py::arg("gamma"), py::keep_alive<1, 2>(),
            "After iteration t positive regrets are multiplied by t^alpha / (t^alpha + 1), negative ones by t^beta / "
            "(t^beta + 1), and the average weighs it by t^gamma.");
    def_solver(cfr);

    py::class_<spf::MonteCarloCfr> sampled(m, "MonteCarloCfr",
                                           "Counterfactual regret minimisation on sampled histories.");
    sampled.def(
        py::init([](const spf::GameTree& tree, const std::string& sampling, double exploration, std::uint64_t seed) {
            if (sampling != "external" && sampling != "outcome")
                throw std::invalid_argument("sampling must be 'external' or 'outcome', not '" + sampling + "'");
            if (!(exploration > 0.0 && exploration <= 1.0))
                throw std::invalid_argument("exploration must be in (0, 1]");
            return spf::MonteCarloCfr(tree,
                                      sampling == "external" ? spf::CfrSampling::kExternal : spf::CfrSampling::kOutcome,
                                      exploration, seed);
        }),
        py::arg("tree"), py::arg("sampling"), py::arg("exploration"), py::arg("seed"), py::keep_alive<1, 2>());
    def_solver(sampled);
}

}  // namespace

void bind_solvers(py::module_& m) {
    using spf::InformationState;
    py::register_exception<spf::GameTooLarge>(m, "GameTooLargeError", PyExc_ValueError);
    py::class_<InformationState>(m, "InformationState", "Where one player has to decide, as far as it can tell.")
        .def_readonly("player", &InformationState::player)
        .def_readonly("key", &InformationState::key)
        .def_readonly("legal_actions", &InformationState::legal)
        .def_readonly("history", &InformationState::history, "one way to get there, nature's moves included");

    py::class_<spf::GameTree> tree(m, "GameTree", "A game with hidden information, in sequence form.");
    def_form(tree);

    py::class_<spf::Positions> positions(m, "Positions", "A game of perfect information, as its distinct positions.");
    def_form(positions);
    positions.def_property_readonly("num_positions", &spf::Positions::count, "terminal ones included");
    positions.def(
        "outcomes",
        [](const spf::Positions& self, const Table& policy) {
            const std::vector<double> shares = self.outcomes(policies(self, policy, 2)[0]);
            py::array_t<double> result({static_cast<py::ssize_t>(self.players), py::ssize_t{3}});
            std::copy(shares.begin(), shares.end(), result.mutable_data());
            return result;
        },
        py::arg("policy"), "Probabilities float64[P, 3] that a player wins, draws and loses; policy float64[I, A].");
    positions.def(
        "minimax",
        [](const spf::Positions& self) {
            const auto states = static_cast<py::ssize_t>(self.states.size());
            py::array_t<double> worth(states);
            py::array_t<bool> optimal({states, static_cast<py::ssize_t>(self.actions)});
            const std::span<bool> flags(optimal.mutable_data(), static_cast<std::size_t>(optimal.size()));
            std::fill(flags.begin(), flags.end(), false);
            self.minimax({worth.mutable_data(), self.states.size()}, flags);
            return py::make_tuple(worth, optimal);
        },
        "Perfect play of a two-player zero-sum game: value float64[I] for whoever moves, optimal bool[I, "
        "A].");
    bind_cfr(m);

    m.def("solver_form", &form_of, py::arg("name"), py::arg("options"), py::arg("max_nodes"),
          py::call_guard<py::gil_scoped_release>(),
          R"(The whole game: Positions if information is perfect, else GameTree.

Raises ValueError on an unknown game or option, beyond max_nodes positions or histories, or without perfect recall.)");
}
