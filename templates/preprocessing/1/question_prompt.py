"""Prompts of a fixed order whose text is put into a question; without the chat template it follows the image bare."""

from __future__ import annotations

import sequence_prompt


class PromptBuilder(sequence_prompt.PromptBuilder):
    def chunks(self, text: str, images: int, apply_chat_template: bool) -> list[list[int]]:
        """The ids before and after the image, which such a model always has.

        Raises RequestError for a mark in the text, or more than one image.
        """
        before, question = super().chunks(text, images, apply_chat_template)
        return [before, question if apply_chat_template else self.encode(text, special_tokens=False)]
