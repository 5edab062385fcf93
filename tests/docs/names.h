#pragma once
// The names that examples in the documents use without declaring them (tools/docs/examples.py). Examples are compiled
// and not linked, so nothing here has a definition.
#include <lora/lora.h>

#include <filesystem>
#include <string>
#include <vector>

namespace documents {

extern lora::StableDiffusionPipeline& pipe;
extern lora::StableDiffusionXLPipeline& xl;
extern lora::StableDiffusion3Pipeline& sd3;
extern lora::AmusedPipeline& amused;

// What get_lora_layers() gives of a component, and what lora_state_dict() gives of a file.
extern lora::StateDict layers, text_layers, text_layers_2;
extern lora::LoraStateDict state;
extern std::string metadata;
extern std::string token;
extern std::filesystem::path folder;

}  // namespace documents
