"""Prompts whose images stand at marks in the text: `<image>` written by the user, or put there by the template."""

from __future__ import annotations

from prompt import Prompts
from tensors import RequestError


class PromptBuilder(Prompts):
    def chunks(self, text: str, images: int, apply_chat_template: bool) -> list[list[int]]:
        """The ids before, between and after the images, begin tokens as the model saw them in training.

        Raises RequestError when marks and images do not match.
        """
        prompt = self._in_template(text, images, apply_chat_template)
        self.check_characters(prompt)
        image_id, mark = self.settings["image_token_id"], self.settings["image_mark"]
        if image_id is None:
            return self._split_at_marks(prompt.split(mark))
        chunks: list[list[int]] = [[]]
        for token in self.encode(prompt):
            if token == image_id:
                chunks.append([])
            else:
                chunks[-1].append(token)
        return chunks

    def _in_template(self, text: str, images: int, apply_chat_template: bool) -> str:
        mark = self.settings["image_mark"]
        marks = text.count(mark)
        if marks == 0 and images:
            if not apply_chat_template:
                raise RequestError(
                    f"{images} image(s) but no {mark} in the text: write {mark} where each image goes, "
                    "or leave out apply_chat_template"
                )
            text = self.settings["image_prefix"] * images + text
        elif marks != images:
            raise RequestError(f"{marks} {mark} in the text but {images} image(s): send one image per {mark}")
        if not apply_chat_template:
            return text
        before, _, after = self.settings["template"].partition("{text}")
        return before + text + after

    def _split_at_marks(self, parts: list[str]) -> list[list[int]]:
        """Each part tokenized on its own; the begin token that the tokenizer adds stays in the first only."""
        chunks = [self.encode(part) for part in parts]
        added = 1 if chunks[0][:1] == [self.bos_id] else 0
        return [chunks[0], *(chunk[added:] for chunk in chunks[1:])]
