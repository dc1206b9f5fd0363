// How long threads wait for each other, and how many there are.
#include <omp.h>

#include <cstdint>

// All threads meet so many times.
extern "C" void threads_meet(int64_t times) {
#pragma omp parallel
    for (int64_t i = 0; i < times; ++i) {
#pragma omp barrier
    }
}

// The threads that work for the caller end. They are made again when they are needed.
extern "C" void threads_rest() {
#if _OPENMP >= 201811 || __GNUC__ >= 9  // gcc has it of OpenMP 5, and calls itself 4.5
    omp_pause_resource_all(omp_pause_soft);
#endif
}
