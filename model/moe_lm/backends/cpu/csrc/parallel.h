// A parallel loop on the threads of torch's own OpenMP runtime.

#pragma once

#include <algorithm>
#include <atomic>

#include "kernels.h"

constexpr int ROWS_A_TASK = 16;  // of the kernels that take rows one by one

inline int ceil_div(int a, int b) {
    return (a + b - 1) / b;
}

// task(i) for each i < tasks; each thread takes the next one that is left. No result depends on which thread computes
// it.
template <class Task>
void parallel_for(GompParallel gomp, int threads, int tasks, const Task& task) {
    struct Loop {
        const Task& task;
        std::atomic<int> next;
        int tasks;
    } loop{task, {0}, tasks};
    const auto work = [](void* data) {
        auto& shared = *static_cast<Loop*>(data);
        for (int i; (i = shared.next.fetch_add(1)) < shared.tasks;) shared.task(i);
    };
    if (gomp && threads > 1 && tasks > 1)
        gomp(work, &loop, std::min(threads, tasks), 0);
    else
        work(&loop);
}

// row(r) for each r < rows, some rows a task
template <class Row>
void parallel_for_rows(GompParallel gomp, int threads, int rows, const Row& row) {
    parallel_for(gomp, threads, ceil_div(rows, ROWS_A_TASK), [&](int i) {
        for (int r = i * ROWS_A_TASK; r < std::min(rows, (i + 1) * ROWS_A_TASK); r++) row(r);
    });
}
