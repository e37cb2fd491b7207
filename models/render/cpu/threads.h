// A parallel loop over tasks whose results do not depend on who runs them.
//
// Threads are made for the loop and joined at its end. That costs some 20 microseconds a thread, needs no pool that a
// fork could break, and leaves no thread spinning against torch's own pool.
#pragma once
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace headway {

// Runs task(0) ... task(count - 1) on up to `threads` threads; rethrows the first exception of a task.
template <class Task>
void parallel_for(int64_t count, int threads, const Task& task) {
  std::atomic<int64_t> next{0};
  std::exception_ptr failure;
  std::mutex failure_lock;
  const auto work = [&] {
    try {
      for (int64_t i = next++; i < count; i = next++) task(i);
    } catch (...) {
      next = count;
      const std::lock_guard<std::mutex> guard(failure_lock);
      if (!failure) failure = std::current_exception();
    }
  };
  std::vector<std::thread> helpers;
  try {
    for (int64_t i = 1; i < threads && i < count; i++) helpers.emplace_back(work);
  } catch (const std::system_error&) {
    // no more threads to be had: those that started, and this one, do the work
  }
  work();
  for (std::thread& helper : helpers) helper.join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace headway
