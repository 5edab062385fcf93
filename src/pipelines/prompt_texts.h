#pragma once
// The texts of a call, and what the text encoders make of them.
#include <functional>

#include "lora/pipelines.h"
#include "models/parts_of.h"
#include "pipelines/call_scope.h"
#include "pipelines/prompt_chunks.h"

namespace lora {

// A CLIP text encoder of a pipeline.
struct ClipEncoder {
  const char* component;
  const CLIPTextModel& model;
  const CLIPTokenizer& tokenizer;
};

// The texts to embed: one for each prompt and text encoder.
struct PromptTexts {
  std::vector<std::string> by_encoder[3];
  // The texts of the other half of a batch with guidance. Both halves get the same number of chunks.
  std::vector<std::string> other_half[3] = {};
  PromptSyntax syntax = PromptSyntax::plain;
  std::optional<int> clip_skip = {};
  int max_sequence_length = 256;
  bool negative = false;
  const CallOptions* options = nullptr;  // these two: nullptr outside a pipeline's call
  CallScope* call = nullptr;
  int steps = 1;  // of that call

  // What a CLIP text encoder makes of ids, int64 [texts, tokens].
  using Encode = std::function<TextEmbeddings(const CLIPTextModel& model, const Tensor& ids)>;
  // What each CLIP text encoder makes of its texts: the first of by_encoder[0], the second of by_encoder[1]. Notes what
  // it does not read.
  std::vector<TextEmbeddings> clip(const std::vector<ClipEncoder>& encoders, const Encode& encode) const;
  // clip() with the states before the last layer, without the final norm, and the projection of the end token.
  // `clip_skip` leaves out that many more layers. Throws Error{usage} where a model has too few.
  std::vector<TextEmbeddings> clip(const std::vector<ClipEncoder>& encoders) const;
  // What T5 makes of by_encoder[2], [texts, max_sequence_length, width]. Notes what it does not read.
  Tensor t5(const char* component, const T5EncoderModel& model, const T5Tokenizer& tokenizer) const;

 private:
  // Returns f(), with the component's adapters applied: the call's, or outside a call the active ones.
  template <class F>
  auto run(const char* component, const Model& model, F f) const {
    auto scope = call ? call->on(component, 0, steps) : RunScope(parts_of(model));
    return f();
  }
  void note_unread(const char* component, int encoder, int64_t length,
                   const std::function<std::string(const std::string&)>& cut_off) const;

  // The chunks of one encoder's texts. `most` counts those of the other half too.
  struct ClipChunks {
    std::vector<std::vector<PromptChunk>> of_text = {};
    PromptChunk empty;  // fills up
    size_t most = 1;
  };
  ClipChunks chunks(const ClipEncoder& encoder, int index) const;
};

}  // namespace lora
