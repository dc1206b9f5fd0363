// How long threads wait for each other.
#include <omp.h>

#include <cstdint>

// All threads meet so many times.
extern "C" void threads_meet(int64_t times) {
#pragma omp parallel
    for (int64_t i = 0; i < times; ++i) {
#pragma omp barrier
    }
}
