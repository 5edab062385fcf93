#include "picture_arguments.h"

#include "check.h"
#include "lora/image.h"
#include "output.h"

namespace lora::cli {

void PictureArguments::declare(CLI::App& command) {
  command.add_option("--image", image,
                     "A PNG, JPEG or WebP file to start from. Without --mask, its transparent part is drawn again.");
  command.add_option("--strength", strength, "How much of the run the image goes through: more than 0, at most 1");
  command.add_option("--mask", mask, "A PNG, JPEG or WebP file. Where it is white, the image is drawn again.");
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
  std::optional<Image> masked;
  if (!mask.empty()) {
    masked = Image::load(mask);
    if (!masked->alpha.empty()) note(fmt::format("--mask {}: its transparent part counts as white", mask));
  }
  if (!image.empty()) {
    auto picture = Image::load(image);
    if (!masked && !picture.alpha.empty()) {
      masked = transparency_of(picture);
      note(fmt::format("--image {}: its transparent part is the mask. Give --mask for another one.", image));
    }
    call.image = std::move(picture);
  }
  check(!keep_unmasked || masked, ErrorKind::usage, "{} needs --mask. Give one.",
        keep_unmasked.value_or(true) ? "--keep-unmasked" : "--no-keep-unmasked");
  check(!only_masked || keep_unmasked.value_or(true), ErrorKind::usage,
        "--only-masked keeps what is not masked. Leave --no-keep-unmasked out.");
  if (masked) call.mask_image = *masked;
  call.strength = strength;
  call.padding_mask_crop = only_masked;
  call.invert_mask = mask_invert;
  call.blur_factor = mask_blur.value_or(masked ? kMaskBlur : 0);
  call.apply_overlay = keep_unmasked.value_or(masked.has_value());
}

}  // namespace lora::cli
