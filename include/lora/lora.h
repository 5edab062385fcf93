#pragma once
// The whole library, in reading order.
#include "lora/adapters.h"
#include "lora/error.h"
#include "lora/image.h"
#include "lora/loaders.h"
#include "lora/lora_options.h"
#include "lora/model.h"
#include "lora/pipeline.h"
#include "lora/scheduler.h"
#include "lora/state_dict.h"
#include "lora/tensor.h"
#include "lora/tokenizer.h"
