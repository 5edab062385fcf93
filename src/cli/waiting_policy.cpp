// Makes the threads of OpenMP, which libtorch computes with, sleep while they wait for work.
//
// By default they spin for milliseconds. If other programs use the same cores, the thread that has the work cannot run,
// and a picture takes ten times as long. OpenMP reads its environment when it is loaded, which is before main(), and
// has no call for this. So the command starts itself once more with OMP_WAIT_POLICY=passive. It does so before any
// library is initialised, which takes 3 ms. An environment that chooses a policy stays as it is.
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

// Sanitizers are not ready that early.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

namespace {

bool names_a_policy(const char* variable) {
  for (const char* name : {"OMP_WAIT_POLICY=", "GOMP_SPINCOUNT=", "KMP_BLOCKTIME="})
    if (std::strncmp(variable, name, std::strlen(name)) == 0) return true;
  return false;
}

void start_again_if_threads_would_spin(int, char** argv, char** environment) {
  char** end = environment;
  for (; *end != nullptr; ++end)
    if (names_a_policy(*end)) return;

  char program[4096];  // by its own name, which ps shows
  auto length = ::readlink("/proc/self/exe", program, sizeof(program) - 1);
  if (length <= 0) return;
  program[length] = '\0';

  char policy[] = "OMP_WAIT_POLICY=passive";
  auto count = size_t(end - environment);
  auto** extended = static_cast<char**>(std::malloc((count + 2) * sizeof(char*)));
  if (extended == nullptr) return;
  std::copy(environment, end, extended);
  extended[count] = policy;
  extended[count + 1] = nullptr;
  ::execve(program, argv, extended);
  std::free(extended);  // it did not start: go on as we are
}

// The dynamic linker calls this before the initialisers of the shared libraries.
using Initialiser = void (*)(int, char**, char**);
[[gnu::section(".preinit_array"), gnu::used]] Initialiser initialiser = start_again_if_threads_would_spin;

}  // namespace

#endif
