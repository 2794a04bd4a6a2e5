// Fork-join over independent tasks, on the OpenMP threads of the process or else on a small pool of parked threads.
#pragma once

#include <cstdint>

namespace dream_accel {

// Runs fn(context, task, slot) for every task in [0, n_tasks) on at most n_threads threads, the caller among them, and
// returns when all are done. Tasks are handed out in order but finish in any: they must not depend on each other. slot
// is in [0, n_threads) and distinct among threads running at one time, so it can index per-thread scratch. The first
// exception of fn ends the run and is thrown again here.
void parallel_run(int64_t n_tasks, int n_threads, void (*fn)(void*, int64_t, int), void* context);

template <class Fn>
void parallel_for(int64_t n_tasks, int n_threads, Fn&& fn) {
    parallel_run(n_tasks, n_threads, [](void* f, int64_t task, int slot) { (*static_cast<Fn*>(f))(task, slot); }, &fn);
}

}  // namespace dream_accel
