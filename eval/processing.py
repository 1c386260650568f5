"""The processor of the models that are made here: images of one size as they are, a chat form, a token for images."""

from __future__ import annotations

from typing import Any


def llava_processor(tokenizer: Any, side: int, patch: int, template: str, cls: bool = True) -> Any:
    """A LlavaProcessor for a tower on `side`×`side` pixels, normalised as by `eval.train.to_pixels`. `cls`: whether the
    tower has a token more, for the whole image, which the projector is not fed."""
    from transformers import CLIPImageProcessor, LlavaProcessor

    images = CLIPImageProcessor(
        do_resize=True,
        size={"height": side, "width": side},
        do_center_crop=False,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.25, 0.25, 0.25],
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=patch,
        vision_feature_select_strategy="default" if cls else "full",
        num_additional_image_tokens=int(cls),
        image_token="<image>",
        chat_template=template,
    )
