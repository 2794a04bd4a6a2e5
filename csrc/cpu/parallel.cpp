#include "parallel.h"

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#ifndef _WIN32
#include <pthread.h>
#endif

namespace dream_accel {
namespace {

struct Job {
    Job(void (*fn)(void*, int64_t, int), void* context, int64_t n_tasks, int wanted)
        : fn(fn), context(context), n_tasks(n_tasks), wanted(wanted) {}

    void (*fn)(void*, int64_t, int);
    void* context;
    int64_t n_tasks;
    std::atomic<int64_t> next_task{0};
    int wanted;       // helpers the job can still use
    int helpers = 0;  // helpers inside the job
    int next_slot = 1;
    std::mutex failure_mutex;
    std::exception_ptr failure;

    void work(int slot) {
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
        job.work(0);
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
            const int slot = job->next_slot++;
            lock.unlock();
            job->work(slot);
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
    if (the_pool.compare_exchange_strong(found, fresh, std::memory_order_acq_rel)) {
#ifndef _WIN32
        // Threads do not survive a fork: the child leaves the parent's pool behind and starts its own when it needs
        // one.
        static std::once_flag registered;
        std::call_once(registered, [] { pthread_atfork(nullptr, nullptr, [] { the_pool.store(nullptr); }); });
#endif
        return *fresh;
    }
    delete fresh;
    return *found;
}

}  // namespace

void parallel_run(int64_t n_tasks, int n_threads, void (*fn)(void*, int64_t, int), void* context) {
    if (n_threads > n_tasks) n_threads = static_cast<int>(n_tasks);
    if (n_threads <= 1) {
        for (int64_t task = 0; task < n_tasks; ++task) fn(context, task, 0);
        return;
    }
    Job job(fn, context, n_tasks, n_threads - 1);
    pool().run(job, n_threads);
    if (job.failure) std::rethrow_exception(job.failure);
}

}  // namespace dream_accel
