#pragma once
// How much memory a call takes, and how much there is.
#include <algorithm>

namespace lora {

// An estimate, in bytes, from the configs of the models and from the size and number of the images. Each part of a call
// counts the weights of the models that work in it. Weights that are mapped from a file leave memory where it is
// missing. So those of the other models do not count. Weights that were converted to another dtype count all the time,
// but for a pipeline with PipelineOptions::low_memory.
struct MemoryNeeded {
  double weights = 0;    // of all models together, in their dtype in memory
  double kept = 0;       // of them, those that count all the time: they are in memory since the pipeline was opened
  double encoding = 0;   // the most at once while the text encoders work,
  double denoising = 0;  // in a step,
  double decoding = 0;   // and while the images are decoded
  double peak() const { return std::max({encoding, denoising, decoding}); }
  double more() const { return peak() - kept; }  // what must be free when the call begins
};

// The bytes of memory that this process can still take: what the machine has free, with its swap, or what the process's
// control group allows, whichever is less. The cached pages of files count as free. Infinity if the system does not
// tell. Threads: any number may call it at once.
double free_memory();

}  // namespace lora
