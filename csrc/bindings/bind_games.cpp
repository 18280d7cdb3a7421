// The Python class GameBatch: every game, one class. Arrays are views of the batch's own columns.
#include "bindings/bind_games.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bindings/any_batch.h"
#include "games/all_games.h"

namespace py = pybind11;

namespace spf {

#define SPF_DECLARE(Game) \
    template <>           \
    GameEntry game_entry<Game>();
SPF_FOR_EACH_GAME(SPF_DECLARE)
#undef SPF_DECLARE

namespace {

using Ints = py::array_t<std::int64_t, py::array::c_style>;
using Seeds = py::array_t<std::uint64_t, py::array::c_style>;

std::map<std::string, GameEntry, std::less<>> entries() {
    std::map<std::string, GameEntry, std::less<>> all;
#define SPF_ENTER(Game) all.emplace(std::string(Game::kName), game_entry<Game>());
    SPF_FOR_EACH_GAME(SPF_ENTER)
#undef SPF_ENTER
    return all;
}

GameEntry entry(const std::string& name) {
    const auto all = entries();
    const auto found = all.find(name);
    if (found == all.end()) throw std::invalid_argument("unknown game '" + name + "'");
    return found->second;
}

// Moves as they are stepped: [K], or [K, players] where all players move at once.
std::span<const std::int64_t> moves_of(const AnyBatch& batch,
                                       const py::array_t<std::int64_t, py::array::c_style>& array) {
    if (!batch.info().simultaneous) {
        if (array.ndim() != 1) {
            throw std::invalid_argument(batch.info().name + ": actions must have the shape [rows], one per row; got " +
                                        std::to_string(array.ndim()) + " dimensions");
        }
    } else if (array.ndim() != 2 || array.shape(1) != batch.moves_per_row()) {
        throw std::invalid_argument(batch.info().name + ": actions must have the shape [rows, " +
                                    std::to_string(batch.moves_per_row()) + "], one per player");
    }
    return {array.data(), static_cast<std::size_t>(array.size())};
}

template <class T>
std::span<const T> span_of(const py::array_t<T, py::array::c_style>& array, const char* name) {
    if (array.ndim() != 1) {
        throw std::invalid_argument(std::string(name) + " must be a list of numbers, got " +
                                    std::to_string(array.ndim()) + " dimensions");
    }
    return {array.data(), static_cast<std::size_t>(array.size())};
}

// Whole numbers of any width; a mask or a float array is a TypeError instead of a silent cast.
Ints ints_of(const py::object& numbers, const char* name) {
    const py::array array = py::array::ensure(numbers);
    if (!array) throw py::type_error(std::string(name) + " must be an array of whole numbers");
    const char kind = array.dtype().kind();
    if (kind != 'i' && kind != 'u' && array.size() != 0) {
        throw py::type_error(std::string(name) + " must be whole numbers, int64 or int32, got " +
                             std::string(py::str(array.dtype())) +
                             (kind == 'b' ? "; np.flatnonzero turns a mask into numbers" : ""));
    }
    return py::array_t<std::int64_t, py::array::c_style | py::array::forcecast>(array);
}
std::optional<Ints> rows_of(const py::object& rows) {
    if (rows.is_none()) return std::nullopt;
    return ints_of(rows, "rows");
}
Rows span_of(const std::optional<Ints>& rows) {
    if (!rows) return std::nullopt;
    return span_of(*rows, "rows");
}

// The UTF-8 of Python strings and bytes, held alive while C++ reads them without the interpreter's lock.
struct Texts {
    std::vector<py::object> owners;
    std::vector<std::string_view> views;

    Texts(const py::sequence& items, const char* name) {
        if (PyUnicode_Check(items.ptr()) != 0 || PyBytes_Check(items.ptr()) != 0) {
            throw py::type_error(std::string(name) + " must be a list of texts, one per row, got one text");
        }
        const std::size_t count = items.size();
        owners.reserve(count);
        views.reserve(count);
        for (std::size_t i = 0; i < count; ++i) add(items[i], name);
    }

  private:
    void add(py::object item, const char* name) {
        if (PyUnicode_Check(item.ptr()) != 0) {
            Py_ssize_t size = 0;
            if (const char* text = PyUnicode_AsUTF8AndSize(item.ptr(), &size)) {
                views.emplace_back(text, static_cast<std::size_t>(size));
                owners.push_back(std::move(item));
                return;
            }
            PyErr_Clear();  // lone surrogates have no UTF-8: '?' stands for them
            item = py::reinterpret_steal<py::object>(PyUnicode_AsEncodedString(item.ptr(), "utf-8", "replace"));
            if (!item) throw py::error_already_set();
        }
        char* bytes = nullptr;
        Py_ssize_t size = 0;
        if (PyBytes_Check(item.ptr()) == 0 || PyBytes_AsStringAndSize(item.ptr(), &bytes, &size) != 0) {
            throw py::type_error(std::string(name) + " must hold str or bytes, got " +
                                 std::string(py::str(py::type::of(item).attr("__name__"))));
        }
        views.emplace_back(bytes, static_cast<std::size_t>(size));
        owners.push_back(std::move(item));
    }
};

// A read-only array over the batch's memory; the batch lives as long as the array.
template <class T, class Raw>
py::array view(const py::object& self, const Raw* data, std::vector<py::ssize_t> shape) {
    py::array array(py::dtype::of<T>(), std::move(shape), reinterpret_cast<const T*>(data), self);
    py::detail::array_proxy(array.ptr())->flags &= ~py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
    return array;
}

py::list strings(const std::vector<std::string>& texts) {
    py::list out(texts.size());
    for (std::size_t i = 0; i < texts.size(); ++i) out[i] = py::str(texts[i]);
    return out;
}

py::list strings(const TextBlock& texts) {
    const std::size_t count = texts.offsets.size() - 1;
    py::list out(count);
    for (std::size_t i = 0; i < count; ++i) {
        const std::int64_t begin = texts.offsets[i], length = texts.offsets[i + 1] - begin;
        out[i] = py::str(texts.bytes.data() + begin, static_cast<py::ssize_t>(length));
    }
    return out;
}

template <class Result, class... Arguments>
auto looking(Result (AnyBatch::*call)(Arguments...) const) {
    return [call](const AnyBatch& batch, Arguments... arguments) {
        const Looks shared(batch.in_use());
        return (batch.*call)(arguments...);
    };
}

std::unique_ptr<AnyBatch> make(const std::string& name, const OptionValues& options, std::int64_t size,
                               std::uint64_t seed, int threads, const std::string& style,
                               std::optional<bool> legal_list, std::size_t speech_characters, const std::string& chance,
                               const std::string& autoreset) {
    const GameEntry game = entry(name);
    const BatchOptions batch = batch_options(size, seed, threads, chance, autoreset);
    Format format = game.format(style_named(style));
    format.legal_list = legal_list.value_or(format.legal_list);
    format.speech_characters = speech_characters;
    try {
        return game.make(options, size, batch, format);
    } catch (const std::bad_alloc&) {
        PyErr_Format(PyExc_MemoryError, "%s: %lld games do not fit into memory, make batch_size smaller", name.c_str(),
                     static_cast<long long>(size));
        throw py::error_already_set();
    }
}

py::tuple parse(const AnyBatch& batch, const py::sequence& replies, const py::object& rows, const std::string& mode,
                std::optional<Player> player) {
    if (mode != "lenient" && mode != "strict") {
        throw std::invalid_argument("mode must be lenient or strict, got '" + mode + "'");
    }
    const Texts texts(replies, "replies");
    const std::optional<Ints> numbers = rows_of(rows);
    const Rows which = span_of(numbers);
    std::vector<Reading> readings;
    {
        const py::gil_scoped_release unlocked;
        const Looks shared(batch.in_use());
        readings = batch.parse(texts.views, which, player, mode == "strict");
    }
    Ints actions(static_cast<py::ssize_t>(readings.size()));
    py::list refusals(readings.size());
    for (std::size_t i = 0; i < readings.size(); ++i) {
        actions.mutable_data()[i] = readings[i].action;
        if (readings[i].action == kInvalidAction) {
            refusals[i] = py::str(readings[i].refusal);
        } else {
            refusals[i] = py::none();
        }
    }
    return py::make_tuple(actions, refusals);
}

void bind_views(py::class_<AnyBatch>& batch) {
    batch
        .def_property_readonly(
            "current_player",
            [](const py::object& self) {
                const auto& b = self.cast<const AnyBatch&>();
                return view<std::int32_t>(self, b.current_player(), {b.size()});
            },
            "int32[B]: player to move, -1 chance, -2 all at once, -4 over; a read-only view")
        .def_property_readonly(
            "legal_actions",
            [](const py::object& self) {
                auto& b = self.cast<AnyBatch&>();
                const Changes alone(b.in_use());
                std::vector<py::ssize_t> shape{b.size()};
                if (b.info().simultaneous) shape.push_back(b.info().num_players);
                shape.push_back(b.info().num_actions);
                return view<bool>(self, b.legal_actions(), shape);
            },
            "bool[B, A], or bool[B, P, A] where all players move at once: brought up to date by this access; a "
            "read-only view")
        .def_property_readonly(
            "legal_bits",
            [](const py::object& self) {
                auto& b = self.cast<AnyBatch&>();
                const Changes alone(b.in_use());
                std::vector<py::ssize_t> shape{b.size()};
                if (b.info().simultaneous) shape.push_back(b.info().num_players);
                shape.push_back((b.info().num_actions + 63) / 64);
                return view<std::uint64_t>(self, b.legal_bits(), shape);
            },
            "uint64[B, W], or uint64[B, P, W]: bit a % 64 of word a / 64 is action a; brought up to date by this "
            "access; a "
            "read-only view")
        .def_property_readonly(
            "terminated",
            [](const py::object& self) {
                const auto& b = self.cast<const AnyBatch&>();
                return view<bool>(self, b.terminated(), {b.size()});
            },
            "bool[B]; a read-only view")
        .def_property_readonly(
            "returns",
            [](const py::object& self) {
                const auto& b = self.cast<const AnyBatch&>();
                return view<float>(self, b.returns(), {b.size(), b.info().num_players});
            },
            "float32[B, P]: 0 until a game is over; a read-only view");
}

void bind_moves(py::class_<AnyBatch>& batch) {
    batch
        .def(
            "step",
            [](AnyBatch& b, const py::object& actions, const py::object& rows,
               const std::optional<py::sequence>& texts) {
                const Ints moves = ints_of(actions, "actions");
                const auto played = moves_of(b, moves);
                const std::optional<Ints> numbers = rows_of(rows);
                const Rows which = span_of(numbers);
                const Texts said(texts ? *texts : py::sequence(py::tuple()), "texts");
                const py::gil_scoped_release unlocked;
                const Changes alone(b.in_use());
                b.step(played, which, said.views);
            },
            py::arg("actions"), py::arg("rows") = py::none(), py::arg("texts") = py::none())
        .def(
            "reset",
            [](AnyBatch& b, const py::object& rows, const std::optional<Seeds>& seeds, std::int64_t repeat) {
                const std::optional<Ints> numbers = rows_of(rows);
                const Rows which = span_of(numbers);
                std::optional<std::span<const std::uint64_t>> keys;
                if (seeds) keys = span_of(*seeds, "seeds");
                const py::gil_scoped_release unlocked;
                const Changes alone(b.in_use());
                b.reset(which, keys, repeat);
            },
            py::arg("rows") = py::none(), py::arg("seeds") = py::none(), py::arg("repeat") = 1)
        .def(
            "sample_actions",
            [](const AnyBatch& b, std::uint64_t seed) {
                std::vector<py::ssize_t> shape{b.size()};
                if (b.info().simultaneous) shape.push_back(b.moves_per_row());
                Ints out(shape);
                std::span<std::int64_t> place(out.mutable_data(), static_cast<std::size_t>(out.size()));
                const py::gil_scoped_release unlocked;
                const Looks shared(b.in_use());
                b.sample_actions(seed, place);
                return out;
            },
            py::arg("seed"))
        .def(
            "random_playouts",
            [](AnyBatch& b, std::optional<std::uint64_t> seed) {
                const py::gil_scoped_release unlocked;
                const Changes alone(b.in_use());
                return b.random_playouts(seed);
            },
            py::arg("seed") = py::none())
        .def(
            "chance_outcomes",
            [](const AnyBatch& b, std::int64_t row) {
                const Looks shared(b.in_use());
                std::vector<std::pair<std::int64_t, double>> out;
                for (const ChanceOutcome& o : b.chance_outcomes(row)) out.emplace_back(o.action, o.probability);
                return out;
            },
            py::arg("row"))
        .def("history", looking(&AnyBatch::history), py::arg("row"));
}

void bind_texts(py::class_<AnyBatch>& batch) {
    batch
        .def(
            "observation",
            [](const AnyBatch& b, const py::object& rows, std::optional<Player> player) {
                const std::optional<Ints> numbers = rows_of(rows);
                const Rows which = span_of(numbers);
                TextBlock texts;
                {
                    const py::gil_scoped_release unlocked;
                    const Looks shared(b.in_use());
                    texts = b.observation(which, player);
                }
                return strings(texts);
            },
            py::arg("rows") = py::none(), py::arg("player") = py::none())
        .def(
            "observation_bytes",
            [](const AnyBatch& b, const py::object& rows, std::optional<Player> player) {
                const std::optional<Ints> numbers = rows_of(rows);
                const Rows which = span_of(numbers);
                auto texts = std::make_unique<TextBlock>();
                {
                    const py::gil_scoped_release unlocked;
                    const Looks shared(b.in_use());
                    *texts = b.observation(which, player);
                }
                TextBlock* const block = texts.get();
                const py::capsule owner(texts.release(), [](void* p) { delete static_cast<TextBlock*>(p); });
                return py::make_tuple(
                    py::array_t<std::uint8_t>(static_cast<py::ssize_t>(block->bytes.size()),
                                              reinterpret_cast<const std::uint8_t*>(block->bytes.data()), owner),
                    py::array_t<std::int64_t>(static_cast<py::ssize_t>(block->offsets.size()), block->offsets.data(),
                                              owner));
            },
            py::arg("rows") = py::none(), py::arg("player") = py::none(),
            "(uint8[N], int64[K + 1]): all texts in one buffer, and where each begins and the last one ends")
        .def(
            "observation_tensor",
            [](const AnyBatch& b, const py::object& rows, std::optional<Player> player) {
                const std::optional<Ints> numbers = rows_of(rows);
                const Rows which = span_of(numbers);
                std::vector<py::ssize_t> shape{which ? static_cast<py::ssize_t>(which->size()) : b.size()};
                if (b.info().simultaneous && !player) shape.push_back(b.info().num_players);
                for (const int n : b.tensor_shape()) shape.push_back(n);
                py::array_t<float> out(shape);
                float* place = out.mutable_data();
                const py::gil_scoped_release unlocked;
                const Looks shared(b.in_use());
                b.observation_tensor(which, player, place);
                return out;
            },
            py::arg("rows") = py::none(), py::arg("player") = py::none())
        .def(
            "messages_since",
            [](const AnyBatch& b, std::int64_t row, Player p) {
                const Looks shared(b.in_use());
                return strings(b.messages_since(row, p));
            },
            py::arg("row"), py::arg("player"))
        .def("information_state", looking(&AnyBatch::information_state), py::arg("row"), py::arg("player"))
        .def("action_text", looking(&AnyBatch::action_text), py::arg("row"), py::arg("action"),
             py::arg("player") = py::none())
        .def("reply_text", looking(&AnyBatch::reply_text), py::arg("row"), py::arg("action"),
             py::arg("player") = py::none())
        .def("parse", &parse, py::arg("replies"), py::arg("rows") = py::none(), py::arg("mode") = "lenient",
             py::arg("player") = py::none());
}

}  // namespace

BatchOptions batch_options(std::int64_t size, std::uint64_t seed, int threads, const std::string& chance,
                           const std::string& autoreset) {
    if (size < 1) throw std::invalid_argument("batch_size must be at least 1, got " + std::to_string(size));
    BatchOptions options{seed, threads > 0 ? threads : default_threads(), chance == "explicit", Autoreset::kOff};
    if (chance != "sampled" && chance != "explicit") {
        throw std::invalid_argument("chance must be sampled or explicit, got '" + chance + "'");
    }
    if (autoreset == "same_step") {
        options.autoreset = Autoreset::kSameStep;
    } else if (autoreset == "next_step") {
        options.autoreset = Autoreset::kNextStep;
    } else if (autoreset != "off") {
        throw std::invalid_argument("autoreset must be off, same_step or next_step, got '" + autoreset + "'");
    }
    return options;
}

void bind_games(py::module_& m) {
    py::class_<OptionInfo>(m, "OptionInfo", "One option of a game, as configured")
        .def_readonly("name", &OptionInfo::name)
        .def_readonly("help", &OptionInfo::help)
        .def_readonly("words", &OptionInfo::words)
        .def_readonly("value", &OptionInfo::value)
        .def_readonly("low", &OptionInfo::low)
        .def_readonly("high", &OptionInfo::high)
        .def_readonly("step", &OptionInfo::step);
    py::class_<GameInfo>(m, "GameInfo", "What a configured game is")
        .def_readonly("name", &GameInfo::name)
        .def_readonly("num_players", &GameInfo::num_players)
        .def_readonly("num_actions", &GameInfo::num_actions)
        .def_readonly("max_turns", &GameInfo::max_turns)
        .def_readonly("zero_sum", &GameInfo::zero_sum)
        .def_readonly("perfect_information", &GameInfo::perfect_information)
        .def_readonly("speech", &GameInfo::speech)
        .def_readonly("simultaneous", &GameInfo::simultaneous)
        .def_readonly("options", &GameInfo::options);

    m.def("game_names", [] {
        std::vector<std::string> names;
        for (const auto& [name, game] : entries()) names.push_back(name);
        return names;
    });
    m.def(
        "describe_game",
        [](const std::string& name, const OptionValues& options) { return entry(name).describe(options); },
        py::arg("name"), py::arg("options"));

    py::class_<AnyBatch> batch(m, "GameBatch", "Many games of one kind, side by side");
    batch.def(py::init(&make), py::arg("name"), py::arg("options"), py::arg("batch_size"), py::arg("seed"),
              py::arg("threads"), py::arg("style"), py::arg("legal_list"), py::arg("speech_characters"),
              py::arg("chance"), py::arg("autoreset"));
    batch.def_property_readonly("info", &AnyBatch::info, py::return_value_policy::copy);
    bind_views(batch);
    bind_moves(batch);
    bind_texts(batch);
    batch.def("copy", looking(&AnyBatch::copy))
        .def(
            "resample",
            [](const AnyBatch& b, const py::object& rows, std::optional<Player> player, std::uint64_t seed) {
                const std::optional<Ints> numbers = rows_of(rows);
                const Rows which = span_of(numbers);
                const py::gil_scoped_release unlocked;
                const Looks shared(b.in_use());
                return b.resample(which, player, seed);
            },
            py::arg("rows"), py::arg("player"), py::arg("seed"))
        .def("state",
             [](const AnyBatch& b) {
                 const Looks shared(b.in_use());
                 return py::bytes(b.snapshot());
             })
        .def(
            "set_state",
            [](AnyBatch& b, const py::bytes& bytes) {
                const Changes alone(b.in_use());
                b.restore(std::string_view(bytes));
            },
            py::arg("state"));
}

}  // namespace spf
