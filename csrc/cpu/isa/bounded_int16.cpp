// Assignments with bounds, in 16-bit integers: rows are rounded once, and compared only with the columns that may hold
// a nearer centroid.
#include <type_traits>

#include "int16.h"

namespace dream_accel {
namespace DREAM_ISA {
namespace {

// A record: squared norm of the row, squared error of its integers, the step of every DEPTH features, and the integers.
constexpr int64_t SIZE = 0, ERROR = 1, STEPS = 2;  // both squared

DREAM_INLINE int64_t head_floats(int64_t D) { return round_up(STEPS + (D + DEPTH - 1) / DEPTH, W); }

int64_t record_floats(int64_t D) { return head_floats(D) + round_up(D, DEPTH) / 2; }

template <class T>
void record_typed_rows(const T* x, int64_t n_rows, int64_t D, const float* centre, float* records) {
    for (int64_t i = 0; i < n_rows; ++i) {
        float* record = records + i * record_floats(D);
        int32_t* pairs = reinterpret_cast<int32_t*>(record + head_floats(D));
        record[SIZE] = record[ERROR] = 0.0f;
        for (int64_t d = 0; d < D; d += DEPTH) {
            const int depth = static_cast<int>(smaller(D - d, DEPTH));
            const Rounded rounded = round_row(x + i * D + d, centre + d, depth, pairs + d / 2);
            record[STEPS + d / DEPTH] = rounded.step;
            record[SIZE] += rounded.squares;
            record[ERROR] += rounded.error();
        }
    }
}

// A part whose rows are given as records.
struct RecordedRows {
    const float* const* row;
    int n_rows, n_next;
    int64_t head;

    static constexpr int LINES = PAIRS * sizeof(int32_t) / 64;

    int64_t bytes_before(int64_t d) const { return (head + d / 2) * static_cast<int64_t>(sizeof(float)); }

    DREAM_INLINE float take(int i, int64_t d, int depth, int32_t* pairs) const {
        const float* source = row[i] + head + d / 2;
        for (int k = 0; k < depth; k += STEP) store_as(pairs + k / 2, load(source + k / 2));
        return row[i][STEPS + d / DEPTH];
    }
};

// Result of comparing a row with some columns.
struct Contest {
    Nearest nearest = {__builtin_inff(), NOT_COMPUTED, NOBODY};
    float second = __builtin_inff();  // the lowest score but one

    bool close() const { return nearest.distance != NOT_COMPUTED; }
};

DREAM_INLINE float lower(float a, float b) { return b < a ? b : a; }

DREAM_INLINE float lowest_lane(vf v) {
    return reduce_lanes(v, [](vf a, vf b) { return b < a ? b : a; })[0];
}

// Compares n_columns scores of a row, from column first on.
template <class T>
void enter(
    const BoundedTile& tile, const T* x, const float* scores, int64_t first, int64_t n_columns, float margin,
    Contest& contest) {
    const float* norms = tile.group.norms + first;
    vf least = broadcast(__builtin_inff()), second = least;
    for (int64_t k = 0; k < n_columns; k += W) {
        const vf score = load(norms + k) + load(scores + k);
        const vf larger = score < least ? least : score;
        second = larger < second ? larger : second;
        least = score < least ? score : least;
    }
    const float low = lowest_lane(least);
    if (const unsigned lanes = at_most(least, broadcast(low))) {
        const int lane = __builtin_ctz(lanes);
        least[lane] = second[lane];
    }
    float& lowest = contest.nearest.score;
    const float beaten = low < lowest ? lowest : low;
    contest.second = lower(contest.second, lower(beaten, lowest_lane(least)));
    lowest = lower(lowest, low);

    const vf limit = broadcast(lowest + margin);
    for (int64_t k = 0; k < n_columns; k += W) {
        const vf score = load(norms + k) + load(scores + k);
        for (unsigned close = at_most(score, limit); close; close &= close - 1) {
            const int64_t column = k + __builtin_ctz(close);
            if (norms[column] < __builtin_inff()) consider(tile.group, x, tile.order[first + column], contest.nearest);
        }
    }
}

// Writes label and bounds of a row whose squared distances are its size and their score, up to error.
template <class T>
void settle(
    const BoundedTile& tile, int32_t row, const T* x, int64_t n_columns, float size, float error, Contest contest) {
    Bounds& bounds = tile.bounds[row];
    int32_t& label = tile.group.labels[row];
    Nearest& nearest = contest.nearest;
    const bool all = n_columns >= tile.group.K;
    const float rest = all ? __builtin_inff() : others_after(bounds.others, tile.moved[n_columns]);
    const float lowest = root_below(size + nearest.score - error);
    if (!all && tile.column[label] >= n_columns) {
        // The own centroid was not compared; it need not be where all that were compared are farther.
        if (lowest > bounds.own) {
            bounds.others = lower(rest, lowest);
            return;
        }
        consider(tile.group, x, label, nearest);
    }
    if (nearest.label == NOBODY) {
        label = tile.group.first_live;
        bounds = unknown_bounds();
        return;
    }
    const float own = contest.close() ? root_above(nearest.distance * (1.0f + sum_slack(tile.group.D)))
                                      : root_above(size + nearest.score + error);
    bounds.own = label == nearest.label ? lower(bounds.own, own) : own;
    bounds.others = lower(rest, contest.close() ? lowest : root_below(size + contest.second - error));
    label = nearest.label;
}

template <class T>
void compare_part(const BoundedTile& tile, const RecordedRows& part, const int32_t* numbers, Largest largest) {
    int32_t* rows = reinterpret_cast<int32_t*>(tile.group.scratch);
    float* scores = tile.group.scratch + PART_ROWS * PAIRS;
    const T* x = static_cast<const T*>(tile.group.x);
    const int64_t D = tile.group.D, stride = columns_at_a_time(tile.group.K);
    const int64_t n_needed = round_up(tile.n_needed[numbers[0]], PANEL);
    Contest contests[PART_ROWS];
    for (int64_t first = 0; first < n_needed; first += COLUMNS) {
        const int64_t n_columns = smaller(n_needed - first, COLUMNS);
        score_columns(tile.group, part, first, n_columns, rows, scores);
        for (int i = 0; i < part.n_rows; ++i) {
            const float margin = 2.0f * score_error(part.row[i][SIZE], part.row[i][ERROR], largest);
            enter(tile, x + numbers[i] * D, scores + i * stride, first, n_columns, margin, contests[i]);
        }
    }
    for (int i = 0; i < part.n_rows; ++i) {
        const float size = part.row[i][SIZE], sums = size + largest.norm * largest.norm;
        const float error = score_error(size, part.row[i][ERROR], largest) + sum_slack(D) * sums;
        settle(tile, numbers[i], x + numbers[i] * D, n_needed, size, error, contests[i]);
    }
}

template <class T>
void compare_typed_tile(const BoundedTile& tile) {
    const int64_t D = tile.group.D, n = tile.group.n_rows;
    const Largest largest = largest_of(tile.group, tile.n_packed);
    for (int64_t i = 0; i < n; i += PART_ROWS) {
        const float* row[2 * PART_ROWS];
        for (int64_t m = 0; m < smaller(n - i, 2 * PART_ROWS); ++m) {
            row[m] = tile.records + tile.rows[i + m] * record_floats(D);
        }
        const int n_rows = static_cast<int>(smaller(n - i, PART_ROWS));
        const int n_next = static_cast<int>(smaller(n - i - n_rows, PART_ROWS));
        compare_part<T>(tile, {row, n_rows, n_next, head_floats(D)}, tile.rows + i, largest);
    }
}

template <class T>
using Stored = std::remove_const_t<std::remove_pointer_t<T>>;

void record_rows(const void* x, Dtype dtype, int64_t n_rows, int64_t D, const float* centre, float* records) {
    with_type(
        dtype, [&](auto* type) { record_typed_rows(static_cast<decltype(type)>(x), n_rows, D, centre, records); });
}

void compare_tile(const BoundedTile& tile) {
    with_type(tile.group.dtype, [&](auto* type) { compare_typed_tile<Stored<decltype(type)>>(tile); });
}

}  // namespace

extern const BoundedKernels bounded;
const BoundedKernels bounded = {record_floats, record_rows, compare_tile};

}  // namespace DREAM_ISA
}  // namespace dream_accel
