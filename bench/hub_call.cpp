// The seconds that snapshot_download(REPO) takes, without the start of a process: what bench/hub.py times in Python.
#include <lora/hub.h>

#include <chrono>
#include <cstdio>

int main(int, char** argv) {
  auto start = std::chrono::steady_clock::now();
  lora::snapshot_download(argv[1]);
  std::printf("%f\n", std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
}
