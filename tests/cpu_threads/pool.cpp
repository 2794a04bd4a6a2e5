// Jobs from several threads at once on the threads of csrc/cpu/parallel.cpp, without OpenMP: built with ThreadSanitizer
// by tests/test_threads.py. With an argument the jobs write to one place, which the sanitizer must report.
#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <thread>
#include <vector>

#include "cpu/parallel.h"

using dream_accel::parallel_run;

namespace {

constexpr int64_t n_tasks = 97;

struct Sums {
    std::vector<int64_t> of_task = std::vector<int64_t>(n_tasks);
    int64_t shared = 0;
    bool race = false;
};

void add(void* context, int64_t task, int slot) {
    auto* sums = static_cast<Sums*>(context);
    for (int64_t i = 0; i < 100; ++i) sums->of_task[task] += task * i;
    if (sums->race) sums->shared += slot;
}

void fail(void*, int64_t task, int) {
    if (task == 50) throw std::runtime_error("task 50");
}

bool jobs(bool race) {
    bool right = true;
    for (int round = 0; round < 50; ++round) {
        Sums sums;
        sums.race = race;
        parallel_run(n_tasks, 2 + round % 3, add, &sums);
        for (int64_t task = 0; task < n_tasks; ++task) right &= sums.of_task[task] == task * 4950;
        try {
            parallel_run(n_tasks, 3, fail, nullptr);
            right = false;
        } catch (const std::runtime_error&) {
        }
    }
    return right;
}

}  // namespace

int main(int argc, char**) {
    std::vector<char> right(3);
    std::vector<std::thread> callers;
    for (char& own : right) callers.emplace_back([&own, argc] { own = jobs(argc > 1); });
    for (auto& caller : callers) caller.join();
    for (const char own : right)
        if (!own) return 1;
    std::puts("right");
    return 0;
}
