// Reads packed weights that were damaged at random until the time is over, and computes with what is accepted:
// isogrid_fuzz [MINUTES [SEED [CORPUS]]].
//
// Built with the sanitizers, where a step beyond the data ends the program. What the reader answers in a rare way is
// kept and damaged further, so that damage gets deeper. CORPUS is a file to write some short cases of every answer to;
// test_packed_matrix.cpp reads one.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>

#include "isogrid/linear.hpp"
#include "packed.hpp"

using namespace isogrid;
using namespace isogrid::tests;

namespace {

constexpr std::size_t most_kept = 4096;
constexpr std::size_t short_case = 150;
constexpr int cases_each = 6;

Status read(const ByteList& data, PackedMatrix& matrix) {
    return PackedMatrix::read(view(data), &matrix);
}

// Makes the layouts of a matrix that was accepted, and products with them.
const char* compute(const PackedMatrix& matrix) {
    const SparseMatrix m = matrix.view();
    if (m.rows > 4096 || m.columns > 65536) return nullptr;  // sound, but it takes long
    const auto columns = static_cast<std::size_t>(m.columns);
    const auto rows = static_cast<std::size_t>(m.rows);
    const Floats x(3 * columns, 1.0f);
    Floats y(3 * rows);
    Linear* linear = nullptr;
    if (Linear::create(m, {nullptr, Activation::none, 0.0f, 0.0f}, true, &linear) != Status::ok) return "no layer";
    const bool ran = linear->run(serial_executor(), x.data(), 1, nullptr, y.data()) == Status::ok &&
                     linear->run(serial_executor(), x.data(), 3, nullptr, y.data()) == Status::ok;
    Linear::destroy(linear);
    Embedding* table = nullptr;
    if (Embedding::create(m, &table) != Status::ok) return "no table";
    const std::int64_t last = m.rows - 1;
    Floats row(columns);
    const bool looked_up = table->run(serial_executor(), &last, 1, row.data()) == Status::ok;
    Embedding::destroy(table);
    return ran && looked_up ? nullptr : "a run that failed";
}

// Some cases of every answer: the shortest that there was, and others that are short.
class Corpus {
  public:
    void add(Random& random, Status status, const ByteList& data) {
        std::vector<ByteList>& cases = cases_[status];
        const double chances = cases_each / static_cast<double>(++seen_[status]);
        if (data.size() > short_case) return;
        if (cases.size() < cases_each) {
            cases.push_back(data);
        } else if (data.size() < cases[0].size()) {
            cases[0] = data;
        } else if (chance(random, std::min(1.0, chances))) {
            cases[static_cast<std::size_t>(between(random, 1, cases_each - 1))] = data;
        }
    }
    void write(const char* path) const {
        std::ofstream out(path);
        for (const auto& [status, cases] : cases_) {
            for (const ByteList& data : cases) out << hexadecimal(data) << ' ' << message(status) << '\n';
        }
    }
    void print() const {
        for (const auto& [status, count] : seen_) std::printf("%12llu  %s\n", count, message(status));
    }
    unsigned long long seen(Status status) const { return seen_.at(status); }

  private:
    std::map<Status, std::vector<ByteList>> cases_;
    std::map<Status, unsigned long long> seen_;
};

}  // namespace

int main(int argc, char** argv) {
    const double minutes = argc > 1 ? std::atof(argv[1]) : 1.0;
    const unsigned long long seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1;
    using Clock = std::chrono::steady_clock;
    const auto end = Clock::now() + std::chrono::duration<double>(60.0 * minutes);

    Random random(seed);
    std::vector<ByteList> kept;
    Corpus corpus;
    unsigned long long rounds = 0;
    for (; Clock::now() < end; ++rounds) {
        ByteList data = !kept.empty() && chance(random, 0.5) ? one_of(random, kept) : random_packed(random);
        damage(data, random);
        data.shrink_to_fit();
        PackedMatrix matrix;
        const Status status = read(data, matrix);
        const char* wrong = try_reading(data);
        if (wrong == nullptr && status == Status::ok) wrong = compute(matrix);
        if (wrong != nullptr) {
            std::printf("round %llu of seed %llu: %s\n%s\n", rounds, seed, wrong, hexadecimal(data).c_str());
            return 1;
        }
        corpus.add(random, status, data);
        if (!chance(random, 1.0 / static_cast<double>(corpus.seen(status)))) continue;
        if (kept.size() < most_kept) {
            kept.push_back(data);
        } else {
            kept[static_cast<std::size_t>(between(random, 0, most_kept - 1))] = data;
        }
    }
    std::printf("%llu cases, seed %llu\n", rounds, seed);
    corpus.print();
    if (argc > 3) corpus.write(argv[3]);
    return 0;
}
