#pragma once
// Whether a picture fits into memory, before it is drawn.
#include "lora/pipeline.h"

namespace lora::cli {

// The memory in bytes that a call needs at once beside the weights. It follows from the configs of the model and from
// the size and number of pictures:
// - the decoder at full size: its last block's input and output, twice each
// - the denoiser: 32 maps of its first block's channels, or for a transformer 16 of its tokens, for all pictures, twice
//   with guidance
// The larger of the two counts. What was measured is up to 2.5 times as much, because libtorch needs room to work.
double memory_needed(const DiffusionPipeline& pipe, const CallOptions& call);

// Throws Error{usage} where a call on the CPU needs more memory than there is: free memory and swap, and no more than
// the process's control group allows.
void check_memory(const DiffusionPipeline& pipe, const CallOptions& call);

}  // namespace lora::cli
