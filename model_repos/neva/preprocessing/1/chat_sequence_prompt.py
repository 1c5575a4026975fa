"""Prompts of a fixed order that are a conversation: without it, the user's text is the whole prompt and has the mark
where its image stands."""

from __future__ import annotations

import sequence_prompt
from tensors import RequestError


class PromptBuilder(sequence_prompt.PromptBuilder):
    def chunks(self, text: str, images: int, apply_chat_template: bool) -> list[list[int]]:
        """The ids before and after the image, each part tokenized on its own.

        Raises RequestError when the text has a mark inside the conversation, or not one per image outside of it.
        """
        if apply_chat_template:
            return super().chunks(text, images, apply_chat_template)
        mark, noun = self.settings["image_mark"], self.media["noun"]
        parts = text.split(mark)
        if len(parts) != images + 1:
            raise RequestError(
                f"{images} {noun}(s) but {len(parts) - 1} {mark} in the text: without the chat template it is the "
                f"whole prompt, put one {mark} where each {noun} stands"
            )
        self.check_characters(text)
        return [self.encode(part, special_tokens=False) for part in parts]
