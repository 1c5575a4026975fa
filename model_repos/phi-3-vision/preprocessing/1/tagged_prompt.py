"""Prompts whose images stand at numbered tags, `<|image_1|>`, `<|image_2|>`, ...; `<image>` marks are numbered here.

Every chunk between the tags is tokenized on its own with the begin token that the tokenizer adds (Phi-3-vision).
"""

from __future__ import annotations

import re

from prompt import Prompts
from tensors import RequestError

MOST_DIGITS = 9  # of a tag's number: Python refuses to convert thousands
QUOTED = 10  # numbers in an error


class PromptBuilder(Prompts):
    def chunks(self, text: str, images: int, apply_chat_template: bool) -> list[list[int]]:
        """The ids before, between and after the images.

        Raises RequestError when tags or marks do not match the images.
        """
        tag = re.compile(r"(\d+)".join(map(re.escape, self.settings["image_tag"].split("NUMBER"))))
        mark = self.settings["image_mark"]
        found = tag.findall(text)
        if any(len(number) > MOST_DIGITS for number in found):
            raise RequestError(
                f"a number of more than {MOST_DIGITS} digits in an image tag, {images} image(s) came: "
                f"write {self._tag(1)} to {self._tag(max(images, 1))}"
            )
        numbers = [int(number) for number in found]
        marks = text.count(mark)
        if numbers and marks:
            raise RequestError(f"{mark} and {self._tag(numbers[0])} in one text: use one of the two")
        if numbers and numbers != list(range(1, images + 1)):
            named = ", ".join(map(str, numbers[:QUOTED])) + ", ..." * (len(numbers) > QUOTED)
            raise RequestError(
                f"the text names images [{named}], {images} came: write {self._tag(1)} to {self._tag(max(images, 1))} "
                "in this order"
            )
        if marks and marks != images:
            raise RequestError(f"{marks} {mark} in the text but {images} image(s): send one image per {mark}")
        if images and not numbers and not marks:
            if not apply_chat_template:
                raise RequestError(
                    f"{images} image(s) but no {mark} in the text: write {mark} where each image goes, "
                    "or leave out apply_chat_template"
                )
            text = self.settings["image_prefix"] * images + text
        any_place = tag.pattern.replace(r"(\d+)", r"\d+") + "|" + re.escape(mark)
        parts = re.split(any_place, text)
        if apply_chat_template:
            before, _, after = self.settings["template"].partition("{text}")
            parts[0] = before + parts[0]
            parts[-1] += after
        self.check_characters("".join(parts))
        return [self.encode(part) for part in parts]

    def _tag(self, number: int) -> str:
        return self.settings["image_tag"].replace("NUMBER", str(number))
