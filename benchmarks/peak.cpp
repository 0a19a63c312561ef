// Floating-point operations per second of this core: multiply-adds in registers, as many chains as hide their latency.
#include <time.h>
#ifndef BYTES
#define BYTES 64
#endif
typedef float V __attribute__((vector_size(BYTES)));

#define UNROLL _Pragma("GCC unroll 12")
volatile float sink;

static double seconds() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return t.tv_sec + 1e-9 * t.tv_nsec;
}

extern "C" double operations_per_second(long rounds) {
  V sum[12], x = V{} + 0.999f, y = V{} + 1e-3f;
  for (int i = 0; i < 12; i++) sum[i] = V{} + i * 1e-3f;
  const double begin = seconds();
  for (long n = 0; n < rounds; n++) UNROLL for (int i = 0; i < 12; i++) sum[i] = sum[i] * x + y;
  const double operations = rounds * 12.0 * 2 * sizeof(V) / sizeof(float), rate = operations / (seconds() - begin);
  for (int i = 0; i < 12; i++) sink += sum[i][0];
  return rate;
}
