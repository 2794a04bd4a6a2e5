#include "parallel.h"

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#ifndef _WIN32
#include <dlfcn.h>
#include <pthread.h>
#endif

namespace dream_accel {
namespace {

struct Job {
    Job(void (*fn)(void*, int64_t, int), void* context, int64_t n_tasks, int n_slots)
        : fn(fn), context(context), n_tasks(n_tasks), n_slots(n_slots), wanted(n_slots - 1) {}

    void (*fn)(void*, int64_t, int);
    void* context;
    int64_t n_tasks;
    std::atomic<int64_t> next_task{0};
    const int n_slots;
    std::atomic<int> next_slot{0};
    int wanted;       // helpers the pool can still send
    int helpers = 0;  // helpers of the pool inside the job
    std::mutex failure_mutex;
    std::exception_ptr failure;

    // Takes part until no task is left; threads beyond n_slots leave at once.
    void join() {
        const int slot = next_slot.fetch_add(1, std::memory_order_relaxed);
        if (slot >= n_slots) return;
        try {
            for (int64_t task; (task = next_task.fetch_add(1, std::memory_order_relaxed)) < n_tasks;)
                fn(context, task, slot);
        } catch (...) {
            next_task.store(n_tasks);
            std::lock_guard<std::mutex> lock(failure_mutex);
            if (!failure) failure = std::current_exception();
        }
    }
};

class Pool {
public:
    void run(Job& job, int n_threads) {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            grow(n_threads - 1);
            jobs_.push_back(&job);
        }
        for (int i = 1; i < n_threads; ++i) work_available_.notify_one();
        job.join();
        std::unique_lock<std::mutex> lock(mutex_);
        for (auto it = jobs_.begin(); it != jobs_.end(); ++it) {
            if (*it == &job) {
                jobs_.erase(it);
                break;
            }
        }
        helper_left_.wait(lock, [&] { return job.helpers == 0; });
    }

private:
    void grow(int n_workers) {
        // A system that refuses another thread gets the same answer from fewer of them.
        try {
            for (; n_workers_ < n_workers; ++n_workers_) std::thread([this] { serve(); }).detach();
        } catch (const std::system_error&) {
        }
    }

    Job* take() {
        for (Job* job : jobs_) {
            if (job->wanted > 0) return job;
        }
        return nullptr;
    }

    void serve() {
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            Job* job;
            work_available_.wait(lock, [&] { return (job = take()) != nullptr; });
            --job->wanted;
            ++job->helpers;
            lock.unlock();
            job->join();
            lock.lock();
            if (--job->helpers == 0) helper_left_.notify_all();
        }
    }

    std::mutex mutex_;
    std::condition_variable work_available_, helper_left_;
    std::vector<Job*> jobs_;
    int n_workers_ = 0;
};

// The pool is never destroyed: its threads may be parked in it while the process exits.
std::atomic<Pool*> the_pool{nullptr};

Pool& pool() {
    Pool* found = the_pool.load(std::memory_order_acquire);
    if (found) return *found;
    Pool* fresh = new Pool;
    if (the_pool.compare_exchange_strong(found, fresh, std::memory_order_acq_rel)) return *fresh;
    delete fresh;
    return *found;
}

// Runs fn(context) on every thread of a team.
using Team = void (*)(void (*fn)(void*), void* context, unsigned n_threads, unsigned flags);

// The OpenMP threads of the process, which are PyTorch's, or null. They spin for milliseconds after every operation of
// PyTorch's; threads of our own would have to share the processors with them.
std::atomic<Team> the_team{nullptr};

void find_threads() {
#ifndef _WIN32
    the_team.store(reinterpret_cast<Team>(dlsym(RTLD_DEFAULT, "GOMP_parallel")));
    // Threads do not survive a fork, and OpenMP does not notice: the child starts a pool when it needs one.
    pthread_atfork(nullptr, nullptr, [] {
        the_team.store(nullptr);
        the_pool.store(nullptr);
    });
#endif
}

}  // namespace

void parallel_run(int64_t n_tasks, int n_threads, void (*fn)(void*, int64_t, int), void* context) {
    if (n_threads > n_tasks) n_threads = static_cast<int>(n_tasks);
    if (n_threads <= 1) {
        for (int64_t task = 0; task < n_tasks; ++task) fn(context, task, 0);
        return;
    }
    static std::once_flag found;
    std::call_once(found, find_threads);
    Job job(fn, context, n_tasks, n_threads);
    if (const Team team = the_team.load()) {
        // The whole team, of which some leave at once: a team that changes its size starts threads anew.
        team([](void* self) { static_cast<Job*>(self)->join(); }, &job, 0, 0);
    } else {
        pool().run(job, n_threads);
    }
    if (job.failure) std::rethrow_exception(job.failure);
}

}  // namespace dream_accel
