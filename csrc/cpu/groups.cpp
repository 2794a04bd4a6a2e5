#include "groups.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

namespace dream_accel {

void check_offsets(const Rows& rows) {
    const int64_t* offsets = rows.offsets;
    bool valid = offsets[0] == 0 && offsets[rows.G] == rows.N;
    for (int64_t g = 0; g < rows.G; ++g) valid = valid && rows.size(g) >= 0;
    if (!valid) {
        throw std::invalid_argument(
            "offsets go from " + std::to_string(offsets[0]) + " to " + std::to_string(offsets[rows.G]) +
            ": they must start at 0, never fall, and end at the number of rows, " + std::to_string(rows.N));
    }
    for (int64_t g = 0; g < rows.G; ++g) {
        if (rows.size(g) > std::numeric_limits<int32_t>::max()) {
            throw std::invalid_argument(
                "group " + std::to_string(g) + " has " + std::to_string(rows.size(g)) +
                " rows: a group can have 2147483647, split it");
        }
    }
}

void sort_by_label(const int32_t* labels, int64_t n_rows, int64_t K, int32_t* rows, int32_t* begin) {
    const auto is_valid = [K](int32_t label) { return label >= 0 && label < K; };
    std::fill_n(begin, K + 1, 0);
    for (int64_t i = 0; i < n_rows; ++i) {
        if (is_valid(labels[i])) ++begin[labels[i] + 1];
    }
    for (int64_t k = 0; k < K; ++k) begin[k + 1] += begin[k];
    // Filling moves every begin[k] to begin[k + 1]; shift them back afterwards.
    for (int64_t i = 0; i < n_rows; ++i) {
        if (is_valid(labels[i])) rows[begin[labels[i]]++] = static_cast<int32_t>(i);
    }
    for (int64_t k = K; k > 0; --k) begin[k] = begin[k - 1];
    begin[0] = 0;
}

int threads_for(int64_t n_operations, int n_threads) {
    // Waking a thread takes about as long as this many multiply-adds.
    constexpr int64_t PER_THREAD = 1 << 18;
    return static_cast<int>(std::clamp<int64_t>(n_operations / PER_THREAD, 1, std::max(n_threads, 1)));
}

}  // namespace dream_accel
