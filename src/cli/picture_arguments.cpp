#include "picture_arguments.h"

#include "check.h"
#include "lora/image.h"

namespace lora::cli {

void PictureArguments::declare(CLI::App& command) {
  command.add_option("--image", image, "A PNG file to start from");
  command.add_option("--strength", strength, "How much of the run the image goes through: more than 0, at most 1");
  command.add_option("--mask", mask, "A PNG file. Where it is white, the image is drawn again.");
  command.add_flag("--mask-invert", mask_invert, "Draws the image again where the mask is black");
  command.add_option("--mask-blur", mask_blur,
                     fmt::format("How far the edge of the mask is blurred, in pixels. Default: {}.", kMaskBlur));
  command.add_flag_function(
      "--keep-unmasked,!--no-keep-unmasked", [this](int64_t count) { keep_unmasked = count > 0; },
      "Puts the pixels of the image back where the mask is black. Default: yes.");
  command
      .add_option("--only-masked", only_masked,
                  "Cuts out the masked part of the image with this number of pixels around it, draws it at --size, and "
                  "puts it back. Default of --size: the model's own.")
      ->type_name("PADDING");
}

void PictureArguments::set(CallOptions& call) const {
  check(!keep_unmasked || !mask.empty(), ErrorKind::usage, "--keep-unmasked needs --mask. Give one.");
  check(!only_masked || keep_unmasked.value_or(true), ErrorKind::usage,
        "--only-masked keeps what is not masked. Leave --no-keep-unmasked out.");
  if (!image.empty()) call.image = Image::load(image);
  if (!mask.empty()) call.mask_image = Image::load(mask);
  call.strength = strength;
  call.padding_mask_crop = only_masked;
  call.invert_mask = mask_invert;
  call.blur_factor = mask_blur.value_or(mask.empty() ? 0 : kMaskBlur);
  call.apply_overlay = keep_unmasked.value_or(!mask.empty());
}

}  // namespace lora::cli
