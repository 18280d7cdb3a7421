// Oracle: the contract of restore. Any bytes, and the bytes of a snapshot changed anyhow, with their checksum put right
// or not, are a std::invalid_argument that changes nothing, or a batch of sound rows that can be saved, restored and
// played on.
#include <stdexcept>
#include <string>
#include <vector>

#include "input.h"

namespace {

using fuzz::Input;

std::string with_checksum(std::string bytes) {
    const std::uint64_t sum = spf::checksum(bytes);
    return bytes.append(reinterpret_cast<const char*>(&sum), sizeof sum);
}

// A few edits: a byte overwritten, changed in one bit or by one, or some bytes taken out, put in or repeated.
void edit(Input& in, std::string& bytes) {
    for (int edits = 1 + in.below(4); edits > 0 && !bytes.empty(); --edits) {
        const auto at = static_cast<std::size_t>(in.below(static_cast<int>(bytes.size())));
        const auto count = static_cast<std::size_t>(in.below(9));
        char& byte = bytes[at];
        switch (in.below(7)) {
            case 0:
                byte = in.number<char>();
                break;
            case 1:
                byte = static_cast<char>(byte ^ (1 << in.below(8)));
                break;
            case 2:
                byte = static_cast<char>(byte + (in.flag() ? 1 : -1));
                break;
            case 3:
                bytes.erase(at, count);
                break;
            case 4:
                bytes.insert(at, count, in.number<char>());
                break;
            case 5:
                bytes.insert(at, bytes.substr(at, count));
                break;
            default:
                bytes.resize(at);
        }
    }
}

std::string changed(Input& in, std::string bytes) {
    const int kind = in.below(8);
    if (kind == 0) return std::string(in.rest());
    if (kind == 1) return with_checksum(std::string(in.rest()));
    if (kind == 2) {
        edit(in, bytes);
        return bytes;
    }
    bytes.resize(bytes.size() - sizeof(std::uint64_t));
    edit(in, bytes);
    return with_checksum(bytes);
}

template <class Game>
void some_moves(Input& in, sound::BatchOf<Game>& batch) {
    std::vector<std::int64_t> moves(static_cast<std::size_t>(batch.size()) * sound::kWidth<Game>);
    for (int left = in.below(64); left > 0; --left) {
        batch.sample_actions(1, moves);
        sound::step(batch, moves, std::nullopt);
    }
    if (in.below(4) == 0) batch.random_playouts();
}

template <class Game>
void play(Input& in, const Game& game) {
    constexpr bool kJoint = spf::JointGame<Game>;
    const std::int64_t size = 1 + in.below(3);
    sound::BatchOf<Game> saved(game, size, fuzz::batch_options(in, kJoint));
    some_moves<Game>(in, saved);
    sound::BatchOf<Game> loaded(game, size, fuzz::batch_options(in, kJoint));
    some_moves<Game>(in, loaded);
    const std::string before = loaded.snapshot("x");
    try {
        loaded.restore(changed(in, saved.snapshot("x")), "x");
    } catch (const std::invalid_argument&) {
        CHECK(loaded.snapshot("x") == before);
    }
    sound::rows(loaded);
    const std::string now = loaded.snapshot("x");
    sound::BatchOf<Game> again(game, size, loaded.options());
    again.restore(now, "x");
    CHECK(again.snapshot("x") == now);
    for (int times = 0; times < 3; ++times) {
        some_moves<Game>(in, loaded);
        loaded.random_playouts();
        sound::rows(loaded);
        loaded.reset(std::nullopt, std::nullopt, 1);
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Input in(data, size);
    fuzz::with_game(in, [&](const auto& game) { play(in, game); });
    return 0;
}
